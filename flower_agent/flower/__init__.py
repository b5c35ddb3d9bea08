"""Flower's programs: their containers, command lines, health, Control API and exits."""

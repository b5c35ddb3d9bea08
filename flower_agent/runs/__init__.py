"""Runs of Flower apps: fetch, bundle, submit, follow, keep."""

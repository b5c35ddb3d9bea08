"""Certificates: the own CA, the provided ones, and whom this VM trusts."""

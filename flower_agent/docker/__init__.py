"""The Docker Engine, and the values that it is spoken to with."""

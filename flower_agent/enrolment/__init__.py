"""Node keys: which SuperNodes a SuperLink lets in."""

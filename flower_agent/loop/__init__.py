"""The daemon: one loop that looks, decides, acts and reports."""

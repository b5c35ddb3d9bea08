"""The daemon: one loop that observes, decides, acts and reports."""

"""The status as JSON, text and metrics, and who is told."""

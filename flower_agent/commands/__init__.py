"""What `flower-agent` does when a person calls it."""

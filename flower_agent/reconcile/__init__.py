"""From the containers that are there to the containers that should be."""

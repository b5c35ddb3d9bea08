"""From one Flower version to another, and back where the new one fails."""

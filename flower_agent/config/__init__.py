"""Context text to settings: what the files say, or every finding about them."""

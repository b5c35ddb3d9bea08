"""Programs that run inside Flower's containers; each is one file and imports nothing of ours."""

"""Does it work: health, Flower's Control API, what an end means."""

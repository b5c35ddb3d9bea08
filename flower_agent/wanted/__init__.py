"""Settings and facts to wanted containers; Flower's versions."""

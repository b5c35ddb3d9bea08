"""flower-agent: turns an OpenNebula VM into the Flower role that its context names."""

__version__ = "0.1.0"

"""What the others are: OneGate, the SuperLink, the nodes of the service."""

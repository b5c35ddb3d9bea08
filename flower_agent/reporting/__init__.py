"""What the operator, OneGate, systemd and monitoring are told."""

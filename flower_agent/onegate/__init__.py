"""OneGate: what the service says, what this VM publishes, and how the VMs find each other."""

"""What this VM is: processor, NICs, GPUs, packet filter, ports."""

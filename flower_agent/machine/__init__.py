"""What this VM is: processor, NICs, GPUs, firewalls, ports."""

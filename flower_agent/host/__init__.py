"""What this VM is: processor, NICs, sockets, GPUs, firewalls."""

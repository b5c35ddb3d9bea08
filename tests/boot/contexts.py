"""Change the context of a VM that runs."""

RECONFIGURE = "one-context-reconfigure.service"


def reconfigure(booted, role, **changes):
    """Do what OpenNebula's `onevm updateconf` comes to in the guest."""
    booted.hand_over(role, **changes)
    booted.vms[role].run("systemctl", "start", RECONFIGURE)

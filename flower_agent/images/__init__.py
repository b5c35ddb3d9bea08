"""Images that are built on the VM: frameworks, and what an app depends on."""

"""The words that everything else is written in: errors, addresses, the life and status of a VM."""

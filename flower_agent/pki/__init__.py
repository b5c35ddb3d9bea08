"""Keys and certificates: whom this VM believes, and what it shows."""

"""What each role does beside its containers."""

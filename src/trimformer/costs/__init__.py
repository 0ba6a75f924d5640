"""What units cost: one cost, one file."""

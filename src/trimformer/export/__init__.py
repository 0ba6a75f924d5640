"""A checkpoint for other runtimes, and on its way to the hub."""

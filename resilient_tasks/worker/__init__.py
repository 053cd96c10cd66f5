"""What runs in a worker's own process."""

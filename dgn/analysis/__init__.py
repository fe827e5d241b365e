"""What makes a unit fire in images that are there."""

"""What only makes passes faster."""

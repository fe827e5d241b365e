"""Which parts of an image a unit needs."""

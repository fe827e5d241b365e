"""Images: read, handed in, cut and fitted."""

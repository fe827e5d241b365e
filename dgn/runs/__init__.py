"""The run folder: what is kept."""

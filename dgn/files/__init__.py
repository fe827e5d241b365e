"""Bytes on disk: files whole or not at all, which of them dgn wrote, weights, image files as they lie there."""

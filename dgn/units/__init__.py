"""What is climbed: one number an image, read from layers."""

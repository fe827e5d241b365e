"""Which axis of a layer's output is the features, and which are places."""

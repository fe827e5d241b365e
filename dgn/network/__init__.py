"""The module under study: what it takes, what its layers give, and what is known of it."""

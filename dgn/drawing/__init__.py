"""Pictures and numbers, drawn: nothing here knows what made them."""

"""Jobs, sweeps, and how they go on."""

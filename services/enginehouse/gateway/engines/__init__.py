"""Which engines there are, what their cards say, and whether they get jobs."""

"""HTTP in, HTTP out: what a route does is a function elsewhere."""

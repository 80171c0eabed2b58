"""HTTP in, HTTP out: the only package of the gateway that knows FastAPI. What a route does is a function elsewhere."""

"""Translates HTTP. Only this package of the gateway knows FastAPI; the work of each route is a function elsewhere."""

"""What the author of an engine does before deploying it: make its folder, and try it out alone."""

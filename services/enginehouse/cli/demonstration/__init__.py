"""What `enginehouse demo` shows: the examples as data, how they are played, how they are told."""

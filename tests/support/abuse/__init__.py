"""What a hostile tenant does to the others over the public API: shared by tests/isolation and `make bench ARGS=--abuse`."""

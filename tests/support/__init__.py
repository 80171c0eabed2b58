"""Helpers for several kinds of tests: real Redis, real sidecars, whole stacks."""

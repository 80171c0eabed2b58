"""What tests of several kinds share: real Redis, real sidecars, whole stacks."""

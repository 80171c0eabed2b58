"""Lets one job into a pod of an engine with `mode: job`, and ends when it is over."""

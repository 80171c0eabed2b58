"""Run engines as hardened containers of a Docker Engine on this machine."""

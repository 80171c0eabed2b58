"""The control plane: render the bundle of an engine from engine.yaml, and the bundle of a tenant."""

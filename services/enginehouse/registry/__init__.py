"""The control plane: engine.yaml becomes an engine's bundle, a tenant becomes a tenant's bundle."""

"""How the runner speaks to an engine: one module per protocol, all behind `base.EngineClient`."""

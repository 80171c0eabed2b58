"""Clients of engines: one module per protocol, all behind `base.EngineClient`."""

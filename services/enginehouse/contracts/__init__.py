"""Data that crosses a boundary between parts: names, jobs, engines, events, errors. No I/O."""

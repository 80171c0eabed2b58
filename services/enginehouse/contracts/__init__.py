"""What crosses a boundary between parts: names, jobs, engines, events, errors. Pure data, no I/O."""

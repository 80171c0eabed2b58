"""What every HTTP API of ours answers in the same way: problems, headers, bodies, and the pages that describe it."""

"""The Open Inference Protocol in front of every engine: an infer request is a job, whose end is waited for."""

"""Speak Dapr. No other package does: the rest of Enginehouse says "publish this job", "read this record"."""

"""What a caller can do with jobs once they are accepted: read, wait, follow, cancel, retry."""

"""The broker where it is Redis: its users, and the commands that dispose of streams and keys."""

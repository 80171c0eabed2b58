"""Notifies tenants of changes of their jobs and engines, by events and webhooks from the outbox."""

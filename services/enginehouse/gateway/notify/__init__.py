"""Tells tenants what became of their jobs and engines: events and webhooks, from the outbox."""

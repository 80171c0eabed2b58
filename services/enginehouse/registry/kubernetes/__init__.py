"""An engine's and a tenant's objects for Kubernetes: data in, data out."""

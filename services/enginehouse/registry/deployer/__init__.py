"""Brings a Kubernetes cluster to what the bundles of engines and tenants say."""

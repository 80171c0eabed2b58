"""Defines the routes, in one module for each resource."""

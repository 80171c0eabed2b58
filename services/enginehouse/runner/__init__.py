"""The engine's Dapr app: takes job events from its sidecar, calls the untrusted engine over HTTP, settles each job."""

"""HTTP: the client behind the webhooks, and the small server behind the health endpoint."""

"""Who may log in: webhooks, the users file; and the config server, which says what a login gets."""

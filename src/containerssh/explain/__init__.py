"""``config explain``: runs a login through the real layers to show what it would get and why; starts nothing."""

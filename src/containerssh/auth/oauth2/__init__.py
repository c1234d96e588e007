"""OAuth 2.0 and OpenID Connect over keyboard-interactive (``auth.md`` section 3)."""

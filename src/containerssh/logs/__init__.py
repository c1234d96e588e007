"""Log formats and destinations (``observability.md`` sections 1 to 4)."""

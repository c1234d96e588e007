"""Kerberos: tickets and passwords (``auth.md`` sections 4 to 6); the extra ``containerssh[kerberos]``."""

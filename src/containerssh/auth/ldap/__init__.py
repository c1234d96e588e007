"""Passwords and public keys judged by a directory (LDAP, Active Directory)."""

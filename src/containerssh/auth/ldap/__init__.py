"""LDAP authentication: passwords and public keys from a directory (LDAP, Active Directory)."""

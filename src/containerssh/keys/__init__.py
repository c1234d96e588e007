"""Keys as OpenSSH writes them: public keys, certificates, lists of revoked keys, and who signed what."""

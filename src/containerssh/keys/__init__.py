"""OpenSSH's formats: public keys, certificates, key revocation lists, and signatures."""

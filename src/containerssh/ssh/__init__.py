"""The SSH front: the only package (besides the sshproxy backend) that knows asyncssh."""

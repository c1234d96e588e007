"""The embedded backend: containers by crun or runc, without a daemon.

The gateway itself mounts nothing. A helper process (:mod:`.worker`), started once and controlled over a socket
(:mod:`.launcher`), forks a child for each container. The child creates a mount namespace, assembles the container's
files in it, and executes the runtime. When the runtime ends for any reason, the kernel removes the mounts with the
namespace. Without root, the helper runs in a user namespace, where all of this works in the same way.
"""

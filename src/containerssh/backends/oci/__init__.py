"""The embedded backend: containers by crun or runc, without a daemon.

The gateway itself mounts nothing. A helper process of ours (:mod:`.worker`), started once and told what to do over a
socket (:mod:`.launcher`), forks a child for each container; the child makes a mount namespace of its own, puts the
container's files together there and becomes the runtime. When the runtime ends, the kernel takes every mount with it,
however it ended. Without root the helper lives in a user namespace, where all of this works just the same.
"""

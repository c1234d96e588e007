"""Check that the installed asyncssh has the private interfaces that the adapter overrides."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import asyncssh
from asyncssh import channel, connection, kex_dh

from containerssh.core.codes import CoreCode
from containerssh.core.errors import ConfigError
from containerssh.ssh.places import constructor_names

LOWEST = (2, 24, 1)
BELOW = (2, 25)

# Undocumented methods that are overridden or called: name and parameters in order.
_CONNECTION = {
    "_choose_alg": ("self", "alg_type", "local_algs", "remote_algs"),
    "_cleanup": ("self", "exc"),
    "_finish_recv_packet": ("self", "pkttype", "seq", "_task", "is_async"),
    "_force_close": ("self", "exc"),
    "_get_extra_kex_algs": ("self",),
    "_keepalive_timer_callback": ("self",),
    "_process_channel_open": ("self", "_pkttype", "_pktid", "packet"),
    "_process_global_request": ("self", "_pkttype", "_pktid", "packet"),
    "_process_kexinit": ("self", "_pkttype", "_pktid", "packet"),
    "_process_service_request": ("self", "_pkttype", "_pktid", "packet"),
    "_process_userauth_request": ("self", "_pkttype", "_pktid", "packet"),
    "_recv_data": ("self",),
    "_recv_packet": ("self",),
    "_recv_pkthdr": ("self",),
    "_reset_keepalive_timer": ("self",),
    "_send": ("self", "data"),
    "_send_deferred_packets": ("self",),
    "_send_disconnect": ("self", "code", "reason", "lang"),
    "_send_global_request": ("self", "request", "args", "want_reply"),
    "_send_kexinit": ("self",),
    "_send_version": ("self",),
    "_set_keepalive_timer": ("self",),
    "choose_server_host_key": ("self", "peer_host_key_algs"),
    "data_received": ("self", "data", "datatype"),
    "get_server_host_key": ("self",),
    "internal_error": ("self", "exc_info", "error_logger"),
    "send_channel_open_confirmation": ("self", "send_chan", "recv_chan", "recv_window", "recv_pktsize", "result_args"),
    "send_channel_open_failure": ("self", "send_chan", "code", "reason", "lang"),
    "send_newkeys": ("self", "k", "h"),
    "send_packet": ("self", "pkttype", "args", "handler"),
}
_CHANNEL = {
    "_accept_data": ("self", "data", "datatype"),
    "_cleanup": ("self", "exc"),
    "_close_send": ("self",),
    "_deliver_data": ("self", "data", "datatype"),
    "_discard_recv": ("self",),
    "_flush_recv_buf": ("self", "exc"),
    "_flush_send_buf": ("self",),
    "_pause_resume_writing": ("self",),
    "_process_close": ("self", "_pkttype", "_pktid", "packet"),
    "_process_request": ("self", "_pkttype", "_pktid", "packet"),
    "_process_window_adjust": ("self", "_pkttype", "_pktid", "packet"),
    "_send_request": ("self", "request", "args", "want_reply"),
    "process_connection_close": ("self", "exc"),
    "process_packet": ("self", "pkttype", "pktid", "packet"),
    "send_packet": ("self", "pkttype", "args"),
    "set_write_buffer_limits": ("self", "high", "low"),
}
_KEY_EXCHANGE = {
    "_compute_hash": ("self", "host_key_data", "k"),
    "_compute_server_shared": ("self",),
    "_format_server_key": ("self",),
    "_parse_client_key": ("self", "packet"),
    "send_packet": ("self", "pkttype", "args"),
}
# Attributes set by the constructors.
_CONNECTION_FIELDS = (
    "_auth", "_auth_complete", "_auth_final", "_auth_in_progress", "_can_send_ext_info", "_channels",
    "_client_kexinit", "_cmp_alg_cs", "_cmp_alg_sc", "_deferred_packets", "_enc_alg_cs", "_enc_alg_sc",
    "_extensions_to_send", "_ignore_first_kex", "_inpbuf", "_keepalive_count", "_keepalive_interval",
    "_keepalive_timer", "_kex", "_kex_algs", "_kex_complete",
    "_kexinit_sent", "_mac_alg_cs", "_mac_alg_sc", "_max_recv_pktlen", "_next_recv_encryption", "_next_service",
    "_packet", "_pktlen", "_recv_blocksize",
    "_recv_encryption", "_recv_handler", "_recv_seq", "_rekey_bytes", "_rekey_bytes_sent", "_rekey_seconds",
    "_rekey_time", "_send_blocksize", "_send_encryption", "_send_seq",
    "_server_host_key_algs", "_server_kexinit", "_session_id", "_sig_algs", "_strict_kex", "_tasks", "_transport",
)  # fmt: skip
_CHANNEL_FIELDS = (
    "_conn", "_init_recv_window", "_recv_buf", "_recv_chan", "_recv_paused", "_recv_state", "_recv_window",
    "_send_buf_len", "_send_chan", "_send_paused", "_send_pktsize",
    "_send_state", "_send_window",
)  # fmt: skip


def check_library(version: str = asyncssh.__version__) -> None:
    """
    Check the library against the needs of the adapter.

    Raises:
        ConfigError: the version differs or an interface is missing; the text says which, and what to install.
    """
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not LOWEST <= numbers < BELOW:
        raise _error(f"it is version {version}")
    for owner, names in (
        (connection.SSHServerConnection, _CONNECTION),
        (channel.SSHServerChannel, _CHANNEL),
        (kex_dh._KexECDH, _KEY_EXCHANGE),
    ):
        missing = missing_methods(owner, names)
        if missing:
            raise _error(f"{owner.__name__} differs: {', '.join(missing)}")
    for owner, fields in (
        (connection.SSHServerConnection, _CONNECTION_FIELDS),
        (channel.SSHServerChannel, _CHANNEL_FIELDS),
    ):
        known = {name for base in owner.__mro__ for name in constructor_names(base)}
        if absent := [name for name in fields if name not in known]:
            raise _error(f"{owner.__name__} has no {', '.join(absent)}")


def missing_methods(owner: type, names: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The *names* that are not methods of *owner* with these parameters."""
    result = []
    for name, parameters in names.items():
        method = getattr(owner, name, None)
        if method is None or tuple(inspect.signature(method).parameters) != parameters:
            result.append(name)
    return result


def _error(what: str) -> ConfigError:
    lowest = ".".join(map(str, LOWEST))
    below = ".".join(map(str, BELOW))
    text = f"the installed asyncssh cannot be used: {what}. Install asyncssh>={lowest},<{below}."
    return ConfigError(CoreCode.CONFIG_ERROR, text)

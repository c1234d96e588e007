"""
A hostile agent, as a program: ``python -m tests.support.key_updates PORT TICKET IDENTITY COUNT BESIDE`` connects as an
agent does, sends as many TLS requests for new keys (RFC 8446 section 4.6.3) with so many bytes of data after each,
waits for the end of the connection and tells of it. The module ssl cannot send any, so this uses the library behind it.
"""

from __future__ import annotations

import _ssl
import ctypes
import socket
import sys

from containerssh.agent.codec import DIRECT_PREAMBLE

_PEM = 1
_UPDATE_REQUESTED = 1

_library = ctypes.CDLL(_ssl.__file__)


def _call(name: str, *arguments: object, result: type | None = ctypes.c_int) -> int:
    function = getattr(_library, name)
    function.restype = result
    found = function(*(ctypes.c_void_p(one) if isinstance(one, int) and one > 0xFFFF else one for one in arguments))
    return int(found or 0)


def main(port: int, ticket: bytes, identity: bytes, count: int, beside: int) -> None:
    pointer = ctypes.c_void_p
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(DIRECT_PREAMBLE + ticket)
        connection.setblocking(True)
        context = _call("SSL_CTX_new", _call("TLS_client_method", result=pointer), result=pointer)
        assert _call("SSL_CTX_use_certificate_file", context, identity, _PEM) == 1
        assert _call("SSL_CTX_use_PrivateKey_file", context, identity, _PEM) == 1
        tls = _call("SSL_new", context, result=pointer)
        assert _call("SSL_set_fd", tls, connection.fileno()) == 1
        assert _call("SSL_connect", tls) == 1
        # From now on what is sent is collected, so that all of it arrives at once.
        memory = _call("BIO_new", _call("BIO_s_mem", result=pointer), result=pointer)
        _call("SSL_set0_wbio", tls, memory, result=None)
        for _ in range(count):
            assert _call("SSL_key_update", tls, _UPDATE_REQUESTED) == 1
            assert _call("SSL_do_handshake", tls) == 1
            assert not beside or _call("SSL_write", tls, bytes(beside), beside) == beside
        records = ctypes.create_string_buffer((64 + beside) * count)
        size = _call("BIO_read", memory, records, len(records))
        connection.settimeout(30)
        try:
            connection.sendall(records.raw[:size])
            while connection.recv(1 << 16):
                pass
        except TimeoutError:
            print("nothing happened")
        except OSError:
            print("cut off")
        else:
            print("ended")


if __name__ == "__main__":
    main(int(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3].encode(), int(sys.argv[4]), int(sys.argv[5]))

"""Attributes of the library's objects have fixed places."""

from __future__ import annotations

from asyncssh.channel import SSHServerChannel
from asyncssh.connection import SSHServerConnection

from containerssh.ssh.adapter import AdapterConnection
from containerssh.ssh.channel_adapter import AdapterChannel
from containerssh.ssh.places import constructor_names, places


class _Base:
    def __init__(self) -> None:
        self._below = 1


class _Owner(_Base):
    _default = 0

    def __init__(self) -> None:
        super().__init__()
        self._own = self._method()
        self._default = 2
        self.public = 3

    def _method(self) -> int:
        return 4


class _Derived(_Owner):
    __slots__ = places(_Owner)


def test_what_constructors_set_has_a_place_and_what_the_class_has_does_not() -> None:
    assert places(_Owner) == ("_below", "_own")


def test_an_object_with_places_behaves_as_one_without() -> None:
    derived = _Derived()
    assert (derived._below, derived._own, derived._default, derived.public, derived._method()) == (1, 4, 2, 3, 4)
    assert vars(derived) == {"_default": 2, "public": 3}
    assert not hasattr(_Derived.__new__(_Derived), "_own")


def test_a_class_without_a_constructor_of_its_own_names_nothing() -> None:
    class Silent(_Owner):
        pass

    assert constructor_names(Silent) == constructor_names(int) == set()


def test_connections_and_channels_have_places_for_what_the_library_sets() -> None:
    for owner, ours, some in (
        (SSHServerConnection, AdapterConnection, {"_transport", "_send_seq", "_kex", "_channels", "_auth"}),
        (SSHServerChannel, AdapterChannel, {"_conn", "_send_window", "_recv_buf", "_session"}),
    ):
        slots = {name for base in ours.__mro__ for name in base.__dict__.get("__slots__", ())}
        assert some <= slots
        assert not {name for name in slots if callable(getattr(owner, name, None))}

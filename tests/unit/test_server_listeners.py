"""Listening sockets: every address of a name, one port for all, one clear line when it cannot be."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from posthouse.server.listeners import CannotListen, bind, shown


@contextmanager
def bound(address: str) -> Iterator[list[socket.socket]]:
    sockets = bind(address, backlog=5)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def test_port_0_takes_a_free_port_and_the_real_one_is_shown() -> None:
    with bound("127.0.0.1:0") as sockets:
        port = sockets[0].getsockname()[1]
        assert shown(sockets) == f"127.0.0.1:{port}" and port
        socket.create_connection(("127.0.0.1", port), 5).close()


def test_all_addresses_of_a_name_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, 1, 6, "", (f"127.0.0.{n}", 0)) for n in (2, 3, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bound("relay.example:0") as sockets:
        names = [sock.getsockname() for sock in sockets]
    assert [name[0] for name in names] == ["127.0.0.2", "127.0.0.3"]
    assert len({name[1] for name in names}) == 1


def test_an_address_that_this_machine_has_not_is_passed_over_if_there_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(socket.AF_INET, 1, 6, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bound("relay.example:0") as sockets:
        assert shown(sockets).startswith("127.0.0.1:")


def test_a_port_in_use_is_one_clear_line_and_leaves_nothing_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound("127.0.0.1:0") as sockets:
        port = sockets[0].getsockname()[1]
        found = [(socket.AF_INET, 1, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with pytest.raises(CannotListen) as raised:
            bind(f"relay.example:{port}", backlog=5)
        assert str(raised.value) == f"cannot listen on relay.example:{port}: address already in use"
        found[1:] = []
        with bound(f"relay.example:{port}"):
            pass


def test_an_address_of_nobody_is_one_clear_line() -> None:
    with pytest.raises(CannotListen, match=r"^cannot listen on 192\.0\.2\.1:0: "):
        bind("192.0.2.1:0", backlog=5)
    with pytest.raises(CannotListen, match=r"^cannot listen on no\.such\.name\.invalid:0: "):
        bind("no.such.name.invalid:0", backlog=5)

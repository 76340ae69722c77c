"""The text of a peer address."""

from __future__ import annotations

import pytest
from posthouse.server.peers import BadPeerAddress, PeerAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x.sock", PeerAddress(path="/run/x.sock")),
        ("unix:/a b/:1", PeerAddress(path="/a b/:1")),
        ("10.0.0.1:8081", PeerAddress(host="10.0.0.1", port=8081)),
        ("member-0.members:0", PeerAddress(host="member-0.members", port=0)),
        ("[::1]:65535", PeerAddress(host="::1", port=65535)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: PeerAddress) -> None:
    assert PeerAddress.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:relative",
        "unix:/folder/",
        "unix:/a\0b",
        "/run/x.sock",
        "host",
        "host:",
        ":8081",
        "host:65536",
        "host:-1",
        "host:８０",
        "host:80 ",
        "ho st:80",
        "::1:80",
        "[::1]80",
        "[host]:80",
        "tcp://host:80",
    ],
)
def test_what_is_no_address_is_one_line(text: str) -> None:
    with pytest.raises(BadPeerAddress) as caught:
        PeerAddress.parse(text)
    assert str(caught.value) == f"{text!r} is no peer address; allowed: unix:/absolute/path, HOST:PORT"
    assert "\n" not in str(caught.value)

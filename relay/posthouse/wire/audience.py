"""Names of hosts as both sides of a connection write them: the audience of ``hello`` (docs/protocol.md 2.1).

A name is ``host`` or ``host:port``, lower case, IPv6 in brackets, ports 80 and 443 left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import AddressValueError, IPv6Address, ip_address
from typing import Final, NamedTuple

_DEFAULT_PORTS: Final = frozenset({80, 443})
_MAX_CHARS: Final = 261
"""A DNS name of 253 characters, a colon, a port, and room for brackets."""


class Authority(NamedTuple):
    """A host, without brackets, and the port that was written, if it is not a default one."""

    host: str
    port: int | None

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine under one of its loopback names."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_authority(text: str) -> Authority | None:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port`` in its normal form; None if it is none of these."""
    text = text.strip().lower()
    if not text or len(text) > _MAX_CHARS or not text.isascii():
        return None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        try:
            host = str(IPv6Address(host))
        except AddressValueError:
            return None
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port_text = rest[1:]
    else:
        host, _, port_text = text.partition(":")
        if not host or not all(char.isalnum() or char in "-._" for char in host):
            return None
    if not port_text:
        return Authority(host, None)
    if not port_text.isdigit() or len(port_text) > 5 or not 0 < int(port_text) < 65536:
        return None
    port = int(port_text)
    return Authority(host, None if port in _DEFAULT_PORTS else port)


def audience_of(host_header: str | None, public_names: Sequence[str], listen: str) -> str:
    """What a client that asked for this ``Host`` is to sign.

    The Host itself where it is one of the ``public_names`` or, when there are none, the listen address or a
    loopback name with any port; else the first of those names. ``listen`` and the names are from the
    configuration and taken as they are when they do not parse.
    """
    asked = parse_authority(host_header) if host_header else None
    names = [parse_authority(name) for name in public_names or (listen,)]
    if asked is not None and (asked in names or (not public_names and asked.is_loopback)):
        return str(asked)
    return str(names[0]) if names[0] is not None else (public_names or (listen,))[0].lower()

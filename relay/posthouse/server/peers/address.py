"""Where a member can be reached by the others."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from posthouse.errors import PosthouseError

_UNIX: Final = "unix:"


class BadPeerAddress(PosthouseError, ValueError):
    """A text that is no peer address."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"{self.text!r} is no peer address; allowed: unix:/absolute/path, HOST:PORT"


class PeerAddress(Struct, frozen=True, gc=False):
    """A Unix socket, or a host and a port. Its text is what ``parse`` reads."""

    path: str | None = None
    """Of a Unix socket; None for TCP."""
    host: str = ""
    """A name or a number; one of IPv6 without brackets."""
    port: int = 0

    @staticmethod
    def parse(text: str) -> PeerAddress:
        """``unix:/absolute/path`` or ``HOST:PORT``, IPv6 in brackets. Raises BadPeerAddress."""
        if text.startswith(_UNIX):
            path = text.removeprefix(_UNIX)
            if not path.startswith("/") or path.endswith("/") or "\0" in path:
                raise BadPeerAddress(text)
            return PeerAddress(path=path)
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if not host or bracketed != (":" in host) or any(char in "[]/" or char.isspace() for char in host):
            raise BadPeerAddress(text)
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            raise BadPeerAddress(text)
        return PeerAddress(host=host, port=int(port))

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

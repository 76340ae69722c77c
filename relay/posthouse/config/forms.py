"""The shapes of text that settings take: addresses to listen on, public names, store URLs."""

import ipaddress
import re
from urllib.parse import urlsplit, urlunsplit

from posthouse.config.setting import Form

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_PASSWORD_IN_QUERY = re.compile(r"(?i)((?:^|[?&;])[^=&;]*(?:password|passwd|secret|token)[^=&;]*=)[^&;]*")
_DEFAULT_PORTS = frozenset({80, 443})


def split_host_port(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` (an IPv6 address in brackets, given back without them).

    Port 0 lets the system choose a free one. Raises ValueError.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} does not end in a port")
    return _host(host, text), int(port)


def hidden_password(url: str) -> str:
    """The URL with whatever looks like a password in it replaced by three asterisks."""
    if url.startswith("sqlite:///"):
        return url  # a path, and nothing else
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    if "@" in url and "@" not in parts.netloc:
        return "***"
    netloc = parts.netloc
    credentials, at, place = netloc.rpartition("@")
    if at and ":" in credentials:
        netloc = f"{credentials.partition(':')[0]}:***@{place}"
    query = _PASSWORD_IN_QUERY.sub(r"\1***", parts.query)
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def _host(host: str, whole: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{whole!r} has no IPv6 address between its brackets") from None
    if not _HOST.fullmatch(host.lower()):
        raise ValueError(f"{whole!r} has no usable host")
    return host.lower()


def _listen_address(text: str) -> str:
    host, port = split_host_port(text)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _peer_address(text: str) -> str:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError(f"{text!r} does not name a socket by its whole path")
        return text
    return _listen_address(text)


def _public_name(text: str) -> str:
    """docs/protocol.md 2.1: lower case, default ports left out, IPv6 in brackets."""
    has_port = ":" in text and not text.endswith("]")
    host, port = split_host_port(text) if has_port else (_host(text, text), 0)
    if has_port and port == 0:
        raise ValueError(f"{text!r} has port 0, which nobody can dial")
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port}" if port and port not in _DEFAULT_PORTS else shown


def _store_url(text: str) -> str:
    if text in ("memory:", "memory://"):
        return "memory:"
    if text.startswith("sqlite:///") and not re.search(r"[?#]", text) and len(text) > len("sqlite:///"):
        return text
    if text.startswith(("postgresql://", "postgres://")):
        return (
            text  # several hosts, sockets, services: what libpq makes of it is said when the store is opened
        )
    raise ValueError(f"{hidden_password(text)!r} is not a store that this release knows")


def _object_name(text: str) -> str:
    """RFC 1123, as Kubernetes has it for the names of most objects."""
    label = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    if len(text) > 253 or not re.fullmatch(rf"{label}(\.{label})*", text):
        raise ValueError(f"{text!r} is no name of a Kubernetes object")
    return text


LISTEN_ADDRESS = Form("HOST:PORT, an IPv6 host in brackets", _listen_address)
OBJECT_NAME = Form("lower-case letters, digits, - and .", _object_name)
PEER_ADDRESS = Form("unix:/absolute/path or HOST:PORT, an IPv6 host in brackets", _peer_address)
PUBLIC_NAME = Form("HOST or HOST:PORT, as in the URL that clients dial", _public_name)
STORE_URL = Form("memory:, sqlite:///relative/path, sqlite:////absolute/path or postgresql://…", _store_url)

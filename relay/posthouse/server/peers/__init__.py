"""Links over sockets: one connection between two members, over a Unix socket or over TCP with mutual TLS."""

from posthouse.server.peers.address import BadPeerAddress, PeerAddress
from posthouse.server.peers.dialer import PeerDialer
from posthouse.server.peers.link import Link, LinkHandler
from posthouse.server.peers.listener import PeerListener
from posthouse.server.peers.security import MutualTls, Security

__all__ = [
    "BadPeerAddress",
    "Link",
    "LinkHandler",
    "MutualTls",
    "PeerAddress",
    "PeerDialer",
    "PeerListener",
    "Security",
]

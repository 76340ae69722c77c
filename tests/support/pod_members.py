"""Members that a Lease of a small API server holds together, with links over TCP: their store may be anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api_server_thread import ApiServerThread
from certificates import Authority
from fake_api_server import NAMESPACE
from members import Members
from peer_rig import write_peer_files

CONFIG = """
peer.listen = "127.0.0.1:0"
peer.tls_cert = "cert.pem"
peer.tls_key = "key.pem"
peer.tls_ca = "ca.pem"
"""
TIMING = {
    "POSTHOUSE_LEASE_DURATION_S": "2",
    "POSTHOUSE_LEASE_DEADLINE_S": "1.2",
    "POSTHOUSE_LEASE_RENEW_S": "0.3",
    "POSTHOUSE_LEASE_REQUEST_TIMEOUT_S": "0.5",
}
AUTHORITY = Authority("ours")


@contextmanager
def members_in_pods(
    folder: Path, api: ApiServerThread, *stores: str, count: int = 2, config: str = ""
) -> Iterator[Members]:
    """Running ones, the first active. ``stores``: their URLs; those without one have the last."""
    environment = {
        "KUBECONFIG": str(api.server.kubeconfig(folder / "kubeconfig")),
        "POSTHOUSE_POD_NAMESPACE": NAMESPACE,
    }
    made = Members(folder, count, store=stores[-1], config=config + CONFIG, timing=TIMING | environment)
    for member, store in zip(made.all, stores, strict=False):
        member.store = store
    for member in made.all:
        write_peer_files(member.folder, AUTHORITY.issue(), AUTHORITY)
        member.environment["POSTHOUSE_POD_NAME"] = f"relay-{made.name(member)}"
    try:
        for member in made.all:
            member.start_unseen()
            made.wait_started(member)
            made.wait_active()
        made.wait_whole()
        yield made
    finally:
        made.clean_up()

"""Mutual TLS between members: who is let in, what is said of those who are not, and new files in use at once."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import peer_rig
import pytest
from certificates import Authority, make_pair
from peer_rig import AUTHORITY, LOOPBACK, Rig, mutual_tls, until, write_peer_files
from posthouse.link.frames import Hello, pack
from posthouse.server.peers import MutualTls
from posthouse.server.tls import UnusableCertificate
from structlog.testing import capture_logs

LOOPS = peer_rig.LOOPS
OTHER = Authority("another")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, mutual_tls(tmp_path / "b"))
    yield rig
    await rig.close()


async def refusals(rig: Rig, security: MutualTls) -> tuple[set[str], set[str]]:
    """What the listener and the dialer log of a dialer that must not come in."""
    dialer, dialing = rig.dialer(security=security)

    def told(event: str) -> set[str]:
        return {one["reason"] for one in logs if one["event"] == event}

    with capture_logs() as logs:
        dialer.follow(str(rig.address))
        await until(lambda: told("link refused") and told("no link to member"))
        dialer.close()
    assert dialing.told == [] and rig.handlers == [] and rig.refused == []
    return told("link refused"), told("no link to member")


async def test_a_certificate_of_another_ca_is_refused_by_the_listener(rig: Rig, tmp_path: Path) -> None:
    await rig.listen()
    here, there = await refusals(rig, mutual_tls(tmp_path / "a", OTHER.issue(), AUTHORITY))
    assert here == {"TLS: the other's certificate: unable to get local issuer certificate"}
    assert there == {"TLS: tlsv1 alert unknown ca"}


async def test_a_listener_of_another_ca_is_refused_by_the_dialer(rig: Rig, tmp_path: Path) -> None:
    await rig.listen()
    here, there = await refusals(rig, mutual_tls(tmp_path / "a", AUTHORITY.issue(), OTHER))
    assert here == {"TLS: tlsv1 alert unknown ca"}
    assert there == {"TLS: the other's certificate: self-signed certificate in certificate chain"}


async def test_an_expired_certificate_is_refused(rig: Rig, tmp_path: Path) -> None:
    await rig.listen()
    here, there = await refusals(rig, mutual_tls(tmp_path / "a", AUTHORITY.issue(expired=True)))
    assert here == {"TLS: the other's certificate: certificate has expired"}
    assert there == {"TLS: sslv3 alert certificate expired"}


async def test_a_certificate_that_nobody_signed_is_refused(rig: Rig, tmp_path: Path) -> None:
    await rig.listen()
    here, _ = await refusals(rig, mutual_tls(tmp_path / "a", make_pair()))
    assert here == {"TLS: the other's certificate: self-signed certificate"}


@pytest.mark.parametrize(
    ("version", "with_certificate", "reason"),
    [
        (ssl.TLSVersion.TLSv1_3, False, "TLS: peer did not return a certificate"),
        (ssl.TLSVersion.TLSv1_2, True, "TLS: unsupported protocol"),
    ],
    ids=["without a certificate", "TLS 1.2"],
)
async def test_a_client_that_is_no_member_is_refused(
    rig: Rig, tmp_path: Path, version: ssl.TLSVersion, with_certificate: bool, reason: str
) -> None:
    await rig.listen()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = version
    cert, key, ca = write_peer_files(tmp_path / "a", AUTHORITY.issue(), AUTHORITY)
    context.load_verify_locations(ca)
    if with_certificate:
        context.load_cert_chain(cert, key)

    def talk() -> bytes:
        with (
            socket.create_connection((rig.address.host, rig.address.port), 5) as plain,
            context.wrap_socket(plain) as sock,
        ):
            sock.sendall(pack(Hello((1, 1), "relay", "a", 1)))
            return sock.recv(100)

    with capture_logs() as logs, pytest.raises(ssl.SSLError):
        await asyncio.to_thread(talk)
    await until(lambda: logs)
    assert [(one["event"], one["reason"]) for one in logs] == [("link refused", reason)]
    assert rig.handlers == []


async def test_a_client_without_tls_is_refused(rig: Rig) -> None:
    await rig.listen()
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection(rig.address.host, rig.address.port)
        writer.write(pack(Hello((1, 1), "relay", "a", 1)))
        await until(lambda: logs)
        writer.close()
        await writer.wait_closed()
    assert logs[0]["event"] == "link refused" and logs[0]["reason"].startswith("TLS: ")
    assert rig.handlers == []


async def test_two_cas_are_accepted_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, mutual_tls(tmp_path / "b", OTHER.issue(), OTHER, AUTHORITY))
    await rig.listen()
    rig.security = mutual_tls(tmp_path / "a", AUTHORITY.issue(), AUTHORITY, OTHER)
    _, dialing, _ = await rig.link()
    assert dialing.told == [("established", "b")]
    await rig.close()


async def test_new_files_are_for_new_links_and_those_that_exist_go_on(rig: Rig, tmp_path: Path) -> None:
    listener = await rig.listen()
    _, dialing, listening = await rig.link()
    assert rig.security is not None and not rig.security.reload_if_changed()
    write_peer_files(tmp_path / "b", OTHER.issue(), OTHER)
    with capture_logs() as logs:
        assert rig.security.reload_if_changed()
        assert not rig.security.reload_if_changed()
    assert [one["event"] for one in logs] == ["peer certificate loaded"]
    assert dialing.whys == [] == listening.whys
    newcomer, heard = rig.dialer("c", security=mutual_tls(tmp_path / "c", OTHER.issue(), OTHER))
    newcomer.follow(str(rig.address))
    await until(lambda: heard.link)
    assert sorted(link.member for link in listener.links()) == ["a", "c"]
    with capture_logs() as logs:
        late, _ = rig.dialer("d", security=mutual_tls(tmp_path / "d"))
        late.follow(str(rig.address))
        await until(lambda: any(one["event"] == "link refused" for one in logs))
    assert dialing.whys == [] == listening.whys


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAA==\n", None])
async def test_broken_new_files_are_logged_and_the_old_stay_in_use(
    rig: Rig, tmp_path: Path, name: str, content: bytes | None
) -> None:
    await rig.listen()
    path = tmp_path / "b" / name
    good = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert rig.security is not None
    with capture_logs() as logs:
        assert not rig.security.reload_if_changed()
        assert not rig.security.reload_if_changed()
    (line,) = logs
    assert line["event"] == "new peer certificate refused, the old one stays"
    assert line["log_level"] == "error" and line["reason"]
    await rig.link()
    path.write_bytes(good + b"\n")
    assert rig.security.reload_if_changed()


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    cert, key, ca = write_peer_files(tmp_path, AUTHORITY.issue(), AUTHORITY)
    key.write_bytes(AUTHORITY.issue().key)
    with pytest.raises(UnusableCertificate, match=r"cert\.pem cannot be used: key values mismatch"):
        MutualTls(cert, key, ca)


async def test_a_listener_that_closes_is_alive_and_one_that_is_cut_off_may_not_be(rig: Rig) -> None:
    """TLS's last word, which only a living process can say, is no sign of death."""
    listener = await rig.listen()
    dialer, dialing, _ = await rig.link()
    with capture_logs() as logs:
        listener.close()
        await until(lambda: any(one.get("reason") == "connection refused" for one in logs))
    assert dialing.whys == ["the other end has closed it"]
    assert rig.refused == []
    dialer.close()
    assert LOOPBACK.port == 0 != rig.address.port

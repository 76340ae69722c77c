"""From the configuration to the lease, and to where other members reach this one."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peer_rig import short_folder, stranger_listening
from posthouse.config import Config
from posthouse.server import unix_sockets
from posthouse.server.cluster import leasing
from posthouse.server.cluster.leasing import NoPlaceForSockets
from posthouse.server.peers import PeerAddress

POSTGRES = "postgresql://host/relay"
PATHS = ["plain", "a [name] with * and ?", "x" * 80 + "/" + "y" * 80]


def config(url: str, kind: str = "auto", pod: str = "", ip: str = "", **peer: str) -> Config:
    plain = Config()
    lease: Any = {"kind": kind}
    return replace(
        plain,
        store=replace(plain.store, url=url),
        lease=replace(plain.lease, **lease),
        peer=replace(plain.peer, **peer),
        pod=replace(plain.pod, name=pod, ip=ip),
    )


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runtime folder."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("url", "kind", "pod", "found"),
    [
        ("memory:", "auto", "", "none"),
        ("sqlite:///relay.db", "auto", "", "file"),
        (POSTGRES, "auto", "", "store"),
        ("sqlite:///relay.db", "store", "", "store"),
        (POSTGRES, "none", "", "none"),
        ("sqlite:///relay.db", "kubernetes", "", "kubernetes"),
        ("memory:", "auto", "relay-0", "kubernetes"),
        ("sqlite:///relay.db", "auto", "relay-0", "kubernetes"),
        (POSTGRES, "auto", "relay-0", "kubernetes"),
        (POSTGRES, "store", "relay-0", "store"),
        ("sqlite:///relay.db", "file", "relay-0", "file"),
    ],
)
def test_the_store_and_the_pod_say_which_lease_unless_the_configuration_does(
    url: str, kind: str, pod: str, found: str
) -> None:
    assert config(url, kind, pod).lease_kind == found


# --- where it listens


@pytest.mark.parametrize(
    ("url", "kind", "peer", "found"),
    [
        ("memory:", "auto", {"listen": "unix:/p"}, None),
        ("sqlite:////f/relay.db", "auto", {}, "unix:/f/relay.db-peer-a.1.sock"),
        ("sqlite:////f/relay.db", "store", {"listen": "unix:/p"}, "unix:/p"),
        ("sqlite:////f/relay.db", "auto", {"tls_cert": "c.pem"}, "0.0.0.0:8081"),
        (POSTGRES, "auto", {"tls_cert": "c.pem", "listen": "[::1]:99"}, "[::1]:99"),
    ],
)
def test_where_links_arrive(url: str, kind: str, peer: dict[str, str], found: str | None) -> None:
    assert leasing.peer_listen(config(url, kind, **peer), "a.1") == found


@pytest.mark.parametrize(("ip", "found"), [("10.1.2.3", "0.0.0.0:8081"), ("fd00::7", "[::]:8081")])
def test_a_pod_listens_where_it_is_dialed(ip: str, found: str) -> None:
    assert leasing.peer_listen(config(POSTGRES, pod="relay-0", ip=ip, tls_cert="c.pem"), "a.1") == found


def test_a_relative_store_has_an_absolute_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    found = leasing.peer_listen(config("sqlite:///linked/relay.db"), "a.1")
    assert found == f"unix:{tmp_path.resolve()}/real/relay.db-peer-a.1.sock"
    assert PeerAddress.parse(found).path is not None


@pytest.mark.parametrize(
    ("peer", "listening", "told"),
    [
        ({}, "unix:/p", "unix:/p"),
        ({}, "10.0.0.1:8081", "10.0.0.1:8081"),
        ({}, "[::1]:8081", "[::1]:8081"),
        ({}, "0.0.0.0:8081", "this.host:8081"),
        ({}, "[::]:8081", "this.host:8081"),
        ({"address": "relay-0.relay:8081"}, "0.0.0.0:8081", "relay-0.relay:8081"),
    ],
)
def test_what_others_are_told(
    peer: dict[str, str], listening: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "this.host")
    assert leasing.peer_address(config(POSTGRES, **peer), listening) == told


@pytest.mark.parametrize(
    ("ip", "peer", "listening", "told"),
    [
        ("10.1.2.3", {}, "0.0.0.0:8081", "10.1.2.3:8081"),
        ("fd00::7", {}, "[::]:8081", "[fd00::7]:8081"),
        ("10.1.2.3", {}, "unix:/p", "unix:/p"),
        ("10.1.2.3", {}, "10.9.9.9:8081", "10.9.9.9:8081"),
        ("10.1.2.3", {"address": "relay-0.relay:8081"}, "0.0.0.0:8081", "relay-0.relay:8081"),
    ],
)
def test_a_pod_is_dialed_at_its_own_address(ip: str, peer: dict[str, str], listening: str, told: str) -> None:
    found = leasing.peer_address(config(POSTGRES, pod="relay-0", ip=ip, **peer), listening)
    assert found == told
    PeerAddress.parse(found)


# --- beside the store


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_where_everybody_can_write_sockets_have_a_folder_of_their_own(tmp_path: Path, mode: int) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(mode)
    found = leasing.peer_listen(config(f"sqlite:///{volume}/relay.db"), "a.1")
    assert found == f"unix:{volume}/relay.db-members/relay.db-peer-a.1.sock"
    assert stat.S_IMODE((volume / "relay.db-members").stat().st_mode) == 0o700
    # Another member finds it there.
    again = leasing.peer_listen(config(f"sqlite:///{volume}/relay.db"), "b.2")
    assert again == f"unix:{volume}/relay.db-members/relay.db-peer-b.2.sock"


def test_a_folder_beside_the_store_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "relay.db-members").mkdir()
    (tmp_path / "relay.db-members").chmod(0o755)
    with pytest.raises(NoPlaceForSockets, match=r"relay\.db-members: not a folder of this user alone"):
        leasing.peer_listen(config(f"sqlite:///{tmp_path}/relay.db"), "a.1")


def test_where_others_cannot_write_sockets_are_beside_the_store(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    found = leasing.peer_listen(config(f"sqlite:///{tmp_path}/relay.db"), "a.1")
    assert found == f"unix:{tmp_path}/relay.db-peer-a.1.sock"


# --- the runtime folder


def test_the_runtime_folder_is_made_for_its_user_alone(runtime: Path) -> None:
    found = leasing.peer_listen(config(POSTGRES), "a.1")
    assert found == f"unix:{runtime}/posthouse/peer-a.1.sock"
    assert stat.S_IMODE(os.stat(runtime / "posthouse").st_mode) == 0o700
    assert leasing.peer_listen(config(POSTGRES), "a.2") == f"unix:{runtime}/posthouse/peer-a.2.sock"


def test_without_a_runtime_folder_there_is_one_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"posthouse-{os.geteuid()}"
    assert leasing.peer_listen(config(POSTGRES), "a.1") == f"unix:{folder}/peer-a.1.sock"
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


@pytest.mark.parametrize("wrong", ["open to a group", "a link", "a file", "of another user", "missing"])
def test_a_runtime_folder_that_is_not_ours_alone_is_refused(
    runtime: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runtime / "posthouse"
    reason = "not a folder of this user alone"
    if wrong == "open to a group":
        folder.mkdir(mode=0o750)
    elif wrong == "a link":
        (runtime / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to("elsewhere")
    elif wrong == "a file":
        folder.write_text("")
    elif wrong == "of another user":
        folder.mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    else:
        folder = runtime / "away" / "posthouse"
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "away"))
        reason = "no such file or directory"
    with pytest.raises(NoPlaceForSockets) as caught:
        leasing.peer_listen(config(POSTGRES), "a.1")
    assert str(caught.value) == f"no place for the sockets of members: {folder}: {reason}; set peer.listen"


# --- what the dead have left


def sockets(folder: Path) -> list[str]:
    return sorted(one for one in os.listdir(folder) if one.endswith(".sock"))


@pytest.mark.parametrize("name", PATHS)
def test_sockets_of_dead_members_are_removed_and_no_others(tmp_path: Path, name: str) -> None:
    store = tmp_path / f"{name}.db"
    store.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{store.name}-peer-"
    with short_folder() as short:
        # Bound where a plain socket's path fits, and moved.
        for member in ("dead.1", "dead.2"):
            with stranger_listening(Path(short) / "s"):
                os.rename(f"{short}/s", store.parent / f"{prefix}{member}.sock")
        with stranger_listening(Path(short) / "s"):
            os.rename(f"{short}/s", store.parent / "other.db-peer-dead.sock")
        (store.parent / f"{prefix}file.sock").write_text("data")
        with stranger_listening(Path(short) / "s"):
            os.rename(f"{short}/s", store.parent / f"{prefix}alive.sock")
            leasing.peer_listen(config(f"sqlite:///{store}"), "a.1")
            assert sockets(store.parent) == sorted(
                ["other.db-peer-dead.sock", f"{prefix}alive.sock", f"{prefix}file.sock"]
            )


def test_dead_sockets_in_the_runtime_folder_are_removed_too(runtime: Path) -> None:
    (runtime / "posthouse").mkdir(mode=0o700)
    with short_folder() as short, stranger_listening(Path(short) / "s"):
        os.rename(f"{short}/s", runtime / "posthouse" / "peer-dead.sock")
    leasing.peer_listen(config(POSTGRES), "a.1")
    assert sockets(runtime / "posthouse") == []


def test_a_member_that_is_only_busy_is_not_dead(tmp_path: Path) -> None:
    with short_folder() as short, stranger_listening(Path(short) / "s") as sock:
        os.rename(f"{short}/s", tmp_path / "peer-busy.sock")
        sock.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            unix_sockets.join(first, str(tmp_path / "peer-busy.sock"))
            leasing.remove_dead(tmp_path, "peer-")
    assert sockets(tmp_path) == ["peer-busy.sock"]


def test_a_folder_that_is_not_there_has_no_sockets(tmp_path: Path) -> None:
    leasing.remove_dead(tmp_path / "away", "peer-")
    assert not (tmp_path / "away").exists()

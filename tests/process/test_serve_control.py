"""The control socket of a running relay."""

import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posthouse.server.control import ask
from posthouse.store.locks import read_lease_holder
from relay_process import RelayProcess
from wire_fixtures import Dial
from wire_keys import named_key

MakeRelay = Callable[..., RelayProcess]
ALICE, BOB = named_key("alice"), named_key("bob")


def control_socket(relay: RelayProcess) -> Path:
    return relay.folder / "relay.db.sock"


def say(path: Path, raw: bytes) -> dict[str, Any]:
    """Raw bytes instead of a request; the answer."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(path))
        try:
            peer.sendall(raw)
        except BrokenPipeError:
            pass
        answer: dict[str, Any] = json.loads(peer.makefile("rb").readline())
        return answer


def test_purge_empties_a_mailbox_and_no_other(relay: RelayProcess, dial: Dial) -> None:
    sender = dial(relay)
    for number in range(3):
        sender.post(b"a%d" % number, recipient=ALICE.address)
    sender.post(b"b", recipient=BOB.address)
    for address, count in ((ALICE.identity_address, 3), (ALICE.address, 0)):
        assert ask(control_socket(relay), {"command": "purge", "address": address}) == {
            "ok": True,
            "purged": count,
        }
    assert dial(relay, ALICE).subscribe()[1] == []
    assert [item["ciphertext"] for item in dial(relay, BOB).subscribe()[1]] == [b"b"]
    assert relay.status()["store"]["messages"] == 1


def test_status_is_that_of_the_metrics_port(relay: RelayProcess) -> None:
    answer = ask(control_socket(relay), {"command": "status"})
    assert answer == {"ok": True, "status": relay.status()}


def test_what_is_no_command_is_answered_with_an_error(relay: RelayProcess) -> None:
    path = control_socket(relay)
    for raw in (
        b'{"command":"explode"}\n',
        b'{"command":["purge"]}\n',
        b'{"command":"purge"}\n',
        b'{"command":"purge","address":"nobody"}\n',
        b"[]\n",
        b"not json\n",
        b"[" * 50_000 + b"\n",
        b"x" * 200_000,
    ):
        answer = say(path, raw)
        assert answer["ok"] is False and answer["error"], raw[:50]
    assert "purge" in say(path, b"{}\n")["error"]
    assert "control command failed" not in relay.events()
    assert relay.get("/readyz")[0] == 200


def test_only_its_user_may_open_it_and_the_lease_names_it(relay: RelayProcess) -> None:
    path = control_socket(relay)
    mode = os.lstat(path).st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    holder = read_lease_holder(relay.folder / "relay.db")
    assert holder is not None
    assert (holder.pid, holder.control_socket) == (relay.pid, str(path))


def test_the_socket_of_a_killed_relay_is_replaced_and_a_stopped_one_leaves_none(relay: RelayProcess) -> None:
    path = control_socket(relay)
    relay.kill()
    assert path.exists()
    relay.start()
    assert ask(path, {"command": "status"})["ok"]
    assert relay.stop() == 0
    assert not path.exists()


def test_a_path_too_long_for_a_socket_works(make_relay: MakeRelay, tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(2):
        folder = folder / ("long" * 20)
        folder.mkdir()
    relay = make_relay(folder=folder, store=f"sqlite:///{folder}/{'n' * 120}.db").start()
    path = folder / f"{'n' * 120}.db.sock"
    assert len(str(path)) > 108 and len(path.name) > 108
    assert ask(path, {"command": "status"})["status"]["role"] == "active"
    assert relay.stop() == 0
    assert not path.exists()


def test_what_stands_at_its_path_is_not_harmed(make_relay: MakeRelay, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("precious")
    relay = make_relay("--store", "memory:", config=f"server.control_socket = '{file}'\n").start_unseen()
    assert relay.wait() == 1
    assert str(file) in relay.lines[-1]["text"]
    assert file.read_text() == "precious"


def test_a_socket_that_another_relay_serves_is_left_alone(make_relay: MakeRelay, tmp_path: Path) -> None:
    config = f"server.control_socket = '{tmp_path}/control'\n"
    first = make_relay(config=config).start()
    second = make_relay(config=config).start_unseen()
    assert second.wait() == 1
    assert "another process listens there" in second.lines[-1]["text"]
    answer = ask(tmp_path / "control", {"command": "status"})
    assert answer["status"]["store"]["url"] == first.store

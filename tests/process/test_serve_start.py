"""`posthouse serve` starts, or ends with exit code 1 and one line that says what is in the way."""

import contextlib
import json
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import posthouse
from relay_process import RelayProcess, free_port
from wire_fixtures import Dial
from wire_keys import named_key

MakeRelay = Callable[..., RelayProcess]
ALICE = named_key("alice")


def refusal(relay: RelayProcess) -> str:
    """The one line with which this relay does not start."""
    assert relay.start_unseen().wait() == 1
    texts = [line["text"] for line in relay.lines if "text" in line]
    assert len(texts) == 1, relay.lines
    assert texts[0].startswith("posthouse: ")
    return str(texts[0])


def test_a_relay_on_port_0_says_where_it_listens_and_takes_messages(relay: RelayProcess, dial: Dial) -> None:
    listening = relay.wait_for("listening")
    assert (listening["address"], listening["tls"]) == (f"127.0.0.1:{relay.port}", False)
    assert (listening["version"], listening["pid"]) == (posthouse.__version__, relay.pid)
    client = dial(relay)
    assert client.post(b"hello", recipient=ALICE.address)["status"] == "stored"


def test_what_was_stored_is_there_after_a_kill_and_the_epoch_has_risen(
    relay: RelayProcess, dial: Dial
) -> None:
    sender = dial(relay)
    assert sender.post(b"kept", recipient=ALICE.address)["status"] == "stored"
    before = relay.status()
    relay.kill()
    relay.start()
    reader = dial(relay, ALICE)
    _, backlog = reader.subscribe()
    assert [item["ciphertext"] for item in backlog] == [b"kept"]
    after = relay.status()
    assert after["epoch"] == reader.welcome["epoch"] == before["epoch"] + 1
    assert after["relay"] == before["relay"]


def test_a_second_relay_on_the_same_store_is_a_standby_that_serves(
    relay: RelayProcess, make_relay: MakeRelay, dial: Dial
) -> None:
    second = make_relay(store=relay.store).start()
    assert second.status()["role"] == "standby"
    assert dial(second).post(b"over there", recipient=ALICE.address)["status"] == "stored"
    assert relay.status()["store"]["messages"] == 1


def test_two_relays_that_take_themselves_for_alone_do_not_both_stay(
    make_relay: MakeRelay, dial: Dial
) -> None:
    first = make_relay("--lease", "none").start()
    second = make_relay("--lease", "none", store=first.store).start()
    sender = dial(first)
    sender.send({"type": "publish", "ref": 1, "recipient": ALICE.address, "ciphertext": b"too late"})
    assert first.wait() == 1
    assert "another promotion owns the store: this relay ends" in first.events()
    assert dial(second).post(b"in time", recipient=ALICE.address)["status"] == "stored"


def test_a_port_in_use_is_named(relay: RelayProcess, make_relay: MakeRelay) -> None:
    for second, port in ((make_relay(), relay.port), (make_relay(), relay.metrics_port)):
        second.port, second.metrics_port = (port, 0) if port == relay.port else (0, port)
        assert f"cannot listen on 127.0.0.1:{port}: address already in use" in refusal(second)


def test_a_failed_start_leaves_the_store_free(relay: RelayProcess, make_relay: MakeRelay) -> None:
    second = make_relay()
    second.port = relay.port
    refusal(second)
    second.port = 0
    second.start()
    assert second.stop() == 0


def test_a_bad_configuration_ends_the_start_with_its_name(make_relay: MakeRelay) -> None:
    assert "limits.max_windo" in refusal(make_relay(config="limits.max_windo = 3\n"))
    assert "limits.max_window" in refusal(make_relay(config="limits.max_window = 'many'\n"))
    assert "POSTHOUSE_LOG_LEVEL" in refusal(make_relay(environment={"POSTHOUSE_LOG_LEVEL": "loud"}))
    assert "--listen" in refusal(make_relay("--listen", "nowhere"))


def test_a_store_that_cannot_be_used_ends_the_start(make_relay: MakeRelay, tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"not a database" * 1000)
    assert "broken.db" in refusal(make_relay(store=f"sqlite:///{broken}"))
    assert broken.read_bytes() == b"not a database" * 1000
    assert "no/such/place" in refusal(make_relay(store="sqlite:////no/such/place/relay.db"))
    assert str(tmp_path) in refusal(make_relay(store=f"sqlite:///{tmp_path}"))


def test_a_certificate_that_cannot_be_used_ends_the_start(make_relay: MakeRelay) -> None:
    files = ("--tls-cert", "/no/such/cert.pem", "--tls-key", "/no/such/key.pem")
    assert "/no/such/cert.pem" in refusal(make_relay(*files))


def test_flags_stand_above_the_environment_and_the_file(make_relay: MakeRelay, dial: Dial) -> None:
    relay = make_relay(
        "--public-name",
        "flag.example",
        config="server.public_names = ['file.example']\nserver.name = 'file'\nlimits.max_window = 777\n",
        environment={"POSTHOUSE_SERVER_PUBLIC_NAMES": "env.example", "POSTHOUSE_SERVER_NAME": "env"},
    ).start()
    document = json.loads(relay.get("/", port=relay.port)[1])
    assert (document["public_names"], document["name"]) == (["flag.example"], "env")
    assert document["limits"]["max_window"] == 777
    client = dial.unopened(relay)
    assert client.challenge["audience"] == "flag.example"


def test_every_setting_with_a_flag_is_an_option_of_serve(make_relay: MakeRelay) -> None:
    from posthouse.cli.serve import command
    from posthouse.config import FIELDS

    options = {name for parameter in command.params for name in parameter.opts}
    assert {field.setting.flag for field in FIELDS.values() if field.setting.flag} <= options
    assert {"--config", "--log-level", "--lease", "--store", "--tls-cert"} <= options


def test_a_memory_relay_takes_no_lease_and_keeps_nothing(make_relay: MakeRelay, dial: Dial) -> None:
    relay = make_relay(store="memory:").start()
    status = relay.status()
    assert status["lease"] == {"kind": "none", "held": True}
    assert status["store"]["durable"] is False
    client = dial(relay)
    result = client.post(b"hello", recipient=ALICE.address)
    assert (result["status"], result["fallback"]) == ("undeliverable", True)
    assert sorted(path.name for path in relay.folder.iterdir()) == ["posthouse.toml"]


def test_open_files_are_raised_to_the_hard_limit(make_relay: MakeRelay, dial: Dial) -> None:
    relay = make_relay(prefix=("prlimit", "--nofile=128:1500")).start()
    limits = Path(f"/proc/{relay.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == ["1500", "1500"]
    assert relay.wait_for("open files are limited below limits.max_connections")["open_files"] == 1500


def test_it_listens_on_ipv6(make_relay: MakeRelay) -> None:
    relay = make_relay(host="[::1]")
    try:
        socket.create_server(("::1", free_port()), family=socket.AF_INET6).close()
    except OSError:
        assert "cannot listen on [::1]" in refusal(relay)
        return
    assert relay.start().wait_for("listening")["address"] == f"[::1]:{relay.port}"


def test_a_crowd_that_connects_while_it_is_busy_waits_instead_of_failing(relay: RelayProcess) -> None:
    relay.signal(signal.SIGSTOP)
    crowd = []
    try:
        for _ in range(500):
            crowd.append(socket.create_connection(("127.0.0.1", relay.port), 5))
            crowd[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    finally:
        relay.signal(signal.SIGCONT)
    for peer in crowd:
        with peer:
            assert peer.recv(12) == b"HTTP/1.1 200"


def test_a_stop_while_the_store_is_locked_by_another_does_not_wait_for_it(make_relay: MakeRelay) -> None:
    relay = make_relay(config="store.busy_timeout_ms = 60_000\n").start()
    assert relay.stop() == 0
    with contextlib.closing(sqlite3.connect(relay.store.removeprefix("sqlite:///"))) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        relay.start_unseen()
        relay.wait_for("opening the store")
        time.sleep(0.3)  # nothing outside tells that it waits for the lock
        assert relay.running
        relay.signal(signal.SIGTERM)
        assert relay.wait(10) == 0
        assert relay.events()[-1] == "stopping before the start was complete"
    relay.start()
    assert relay.stop() == 0

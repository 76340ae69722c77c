"""`posthouse send` and `posthouse listen` against a real relay."""

import base64
import json
import os
import pty
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, one_line_error, posthouse, started_posthouse
from posthouse.client import create_key_file
from posthouse.identity import buckets_of_address, canonical_address, message_id
from relay_process import RelayProcess, free_port

READER = "a-name-of-16-chars-or-more"


@dataclass
class Person:
    """Somebody with a key file."""

    file: str
    address: str


@pytest.fixture
def anna(tmp_path: Path) -> Person:
    file = str(tmp_path / "anna.key")
    return Person(file, create_key_file(file).address)


def send(relay: RelayProcess, to: str, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    return posthouse("send", "--relay", relay.url, "--to", to, *arguments, input=input)


def listen(relay: RelayProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return posthouse("listen", "--relay", relay.url, *arguments)


def messages(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_what_is_sent_waits_until_it_is_listened_for_and_is_gone_then(
    relay: RelayProcess, anna: Person
) -> None:
    sent = send(relay, anna.address, input="grüße\n")
    id, status, took, unit = sent.stdout.split()
    assert (sent.returncode, sent.stderr) == (0, "")
    assert (id, status, unit) == (message_id("grüße\n".encode()), "stored", "ms") and float(took) > 0

    heard = listen(relay, "--key", anna.file, "--until-caught-up")
    assert (heard.returncode, heard.stderr) == (0, "")
    (message,) = messages(heard.stdout)
    assert (message["id"], message["recipient"], message["text"]) == (id, anna.address, "grüße\n")
    assert base64.b64decode(message["ciphertext"]) == "grüße\n".encode()
    assert message["seq"] > 0 and message["received_at"] > 1.7e12 and message["deliveries"] == 1

    assert listen(relay, "--key", anna.file, "--until-caught-up").stdout == ""


def test_an_online_listener_hears_at_once_and_the_sender_hears_delivered(
    relay: RelayProcess, anna: Person
) -> None:
    with started_posthouse("listen", "--relay", relay.url, "--key", anna.file) as listener:
        assert listener.stdout is not None
        send(relay, anna.address, input="first")
        assert json.loads(listener.stdout.readline())["text"] == "first"
        sent = send(relay, anna.address, "--mode", "live", "--json", input="second")
        assert json.loads(listener.stdout.readline())["text"] == "second"
    assert json.loads(sent.stdout)["status"] == "delivered"


def test_the_same_message_again_is_a_duplicate(relay: RelayProcess, anna: Person) -> None:
    send(relay, anna.address, input="x")
    assert send(relay, anna.address, input="x").stdout.split()[1:3] == ["duplicate", "(stored)"]


def test_lines_are_messages_and_results_and_arrive_in_order(relay: RelayProcess, anna: Person) -> None:
    texts = [f"message {number}" for number in range(2000)]
    sent = send(relay, anna.address, "--lines", "--json", "--key", anna.file, input="\n".join(texts) + "\n\n")
    assert sent.returncode == 0, sent.stderr
    assert [json.loads(line)["id"] for line in sent.stdout.splitlines()] == [
        message_id(text.encode()) for text in texts
    ]
    heard = listen(relay, "--key", anna.file, "--count", "2000", "--timeout", "30")
    assert [message["text"] for message in messages(heard.stdout)] == texts


def test_count_takes_no_more_than_it_says(relay: RelayProcess, anna: Person) -> None:
    send(relay, anna.address, "--lines", input="1\n2\n3\n4\n5\n")
    first = listen(relay, "--key", anna.file, "--count", "2")
    rest = listen(relay, "--key", anna.file, "--until-caught-up")
    assert [message["text"] for message in messages(first.stdout)] == ["1", "2"]
    assert [message["text"] for message in messages(rest.stdout)] == ["3", "4", "5"]


def test_bytes_that_are_no_text_arrive_whole(relay: RelayProcess, anna: Person, tmp_path: Path) -> None:
    data = bytes(range(256)) * 100
    (tmp_path / "data").write_bytes(data)
    assert send(relay, anna.address, str(tmp_path / "data")).returncode == 0
    (message,) = messages(listen(relay, "--key", anna.file, "--count", "1").stdout)
    assert base64.b64decode(message["ciphertext"]) == data and "text" not in message


def test_an_anonymous_reader_reads_a_bucket_once(relay: RelayProcess, anna: Person) -> None:
    bucket = buckets_of_address(canonical_address(anna.address)).narrow
    send(relay, anna.address, input="x")
    arguments = ("--bucket", bucket, "--reader", READER, "--until-caught-up")
    (message,) = messages(listen(relay, *arguments).stdout)
    assert (message["bucket"], message["text"]) == (bucket, "x") and "recipient" not in message
    assert listen(relay, *arguments).stdout == ""
    assert len(messages(listen(relay, "--key", anna.file, "--until-caught-up").stdout)) == 1


def test_a_failure_is_one_line_and_exit_code_1(relay: RelayProcess, anna: Person) -> None:
    nobody = f"ws://127.0.0.1:{free_port()}"
    assert "undeliverable" in one_line_error(send(relay, anna.address, "--mode", "live", input="x"))
    assert "invalid" in one_line_error(send(relay, "Qm-nobody", input="x"))
    assert "127.0.0.1" in one_line_error(
        send(relay, anna.address, "--key", anna.file, "--audience", "relay.example", input="x")
    )
    assert (
        one_line_error(
            posthouse("send", "--to", anna.address, "--relay", nobody, "--give-up-after", "0.3", input="x")
        )
        == f"cannot connect to {nobody}: Connection refused"
    )
    assert "Connection refused" in one_line_error(
        posthouse("listen", "--key", anna.file, "--relay", nobody, "--give-up-after", "0.3")
    )
    assert "2 wanted" in one_line_error(listen(relay, "--key", anna.file, "--count", "2", "--timeout", "0.5"))
    assert "no/such/file" in one_line_error(send(relay, anna.address, "no/such/file"))
    assert "no/such/key" in one_line_error(listen(relay, "--key", "no/such/key"))
    assert "http://x" in one_line_error(posthouse("send", "--to", anna.address, "--relay", "http://x"))


def test_of_many_messages_the_refused_ones_are_named_and_the_others_sent(
    relay: RelayProcess, anna: Person
) -> None:
    too_large = "x" * (1024 * 1024)
    sent = send(relay, anna.address, "--lines", "--json", input=f"1\n{too_large}\n3\n")
    assert sent.returncode == 1
    errors = sent.stderr.splitlines()
    assert errors[0].startswith("posthouse: message 2: rejected: too-large")
    assert errors[1:] == ["posthouse: 1 of 3 messages were not accepted"]
    first, second, third = messages(sent.stdout)
    assert (first["status"], third["status"]) == ("stored", "stored")
    assert (second["status"], second["code"], second["fallback"]) == ("rejected", "too-large", True)


def test_listening_without_saying_to_what_is_wrong_usage(relay: RelayProcess) -> None:
    for arguments in ([], ["--bucket", "b"]):
        done = listen(relay, *arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def test_ctrl_c_ends_listen_and_a_waiting_send_without_a_traceback(relay: RelayProcess, anna: Person) -> None:
    listening = ["listen", "--relay", relay.url, "--key", anna.file]
    sending = ["send", "--relay", relay.url, "--to", anna.address, "--mode", "live", "--lines"]
    with started_posthouse(*listening) as listener, started_posthouse(*sending) as sender:
        assert listener.stdout is not None and sender.stdin is not None and sender.stdout is not None
        sender.stdin.write("hello\n")
        sender.stdin.flush()
        assert json.loads(listener.stdout.readline())["text"] == "hello"
        assert "delivered" in sender.stdout.readline()
        for process in (listener, sender):
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert process.stderr is not None and process.stderr.read().strip() == ""


def test_a_line_that_nobody_read_is_not_acknowledged(relay: RelayProcess, anna: Person) -> None:
    send(relay, anna.address, "--lines", input="1\n2\n")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "listen", "--relay", relay.url, "--key", anna.file],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
    assert len(messages(listen(relay, "--key", anna.file, "--until-caught-up").stdout)) == 2


def test_many_messages_show_a_progress_bar_on_a_terminal_and_not_among_the_output(
    relay: RelayProcess, anna: Person, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text("".join(f"{number}\n" for number in range(500)))
    terminal, other_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    sending = ["send", "--relay", relay.url, "--to", anna.address, "--lines", str(tmp_path / "lines")]
    listening = ["listen", "--relay", relay.url, "--key", anna.file, "--until-caught-up"]
    outputs = []
    for arguments in (sending, listening):
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=other_end,
            env=environment,
            timeout=60,
            check=True,
        )
        outputs.append(done.stdout.decode())
    os.close(other_end)
    shown = b""
    while chunk := _read_terminal(terminal):
        shown += chunk
    os.close(terminal)
    assert b"sending" in shown and b"receiving" in shown and b"500 messages" in shown
    assert [len(output.splitlines()) for output in outputs] == [500, 500]
    assert all("\x1b" not in output for output in outputs)


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_stream_of_lines_survives_a_kill_of_the_relay(relay: RelayProcess, anna: Person) -> None:
    with started_posthouse("send", "--relay", relay.url, "--to", anna.address, "--lines", "--json") as sender:
        assert sender.stdin is not None and sender.stdout is not None
        for number in range(300):
            sender.stdin.write(f"{number}\n")
            sender.stdin.flush()
            if number == 150:
                sender.stdout.readline()  # it is under way
                relay.kill()
                relay.start_unseen()
        sender.stdin.close()
        results = sender.stdout.read()
        assert sender.wait(60) == 0
    assert len(results.splitlines()) == 299
    heard = listen(relay, "--key", anna.file, "--until-caught-up")
    texts = [message["text"] for message in messages(heard.stdout)]
    assert sorted(texts, key=int) == [str(number) for number in range(300)]

"""The benchmark's PostgreSQL server, the program that inserts into it, and a relay on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres_server import need_server, server_folder

from bench.plan import ON_POSTGRES, Peer
from bench.postgres import PostgresServer
from bench.servers import Installed
from bench.settings import arranged, insert_raw
from bench.wire import Connection, device_key, take_all
from bench.witness import postgres_epoch


@pytest.fixture
def folder() -> Iterator[Path]:
    need_server()
    with server_folder() as made:
        yield made


def test_the_server_waits_for_the_disk_and_comes_back_with_what_it_had(folder: Path) -> None:
    server = PostgresServer(folder)
    try:
        server.make()
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
            connection.execute("CREATE TABLE here (n int)")
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.dsn())
        server.start()
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT count(*) FROM here").fetchone() == (0,)
    finally:
        server.stop()


def test_raw_inserts_count_the_work_of_the_program_and_of_the_server(folder: Path) -> None:
    report = insert_raw(20_000, 300, folder, pin=False)
    assert report.offline is not None
    assert (report.offline.messages, report.sent) == (20_000, 20_000)
    program_us, server_us = report.offline.server_parts_cpu_us_per_message
    assert program_us > 0
    assert server_us > 0
    assert report.offline.server_cpu_us_per_message == pytest.approx(program_us + server_us)


def test_a_relay_on_the_server_keeps_messages_there(folder: Path) -> None:
    relay = Installed(Peer.POSTHOUSE, (sys.executable, "-m", "posthouse"), "any")
    reader = device_key("reader")
    with arranged(ON_POSTGRES, {Peer.POSTHOUSE: relay}, folder, pin=False) as up:
        assert len(up.pids) == 2
        with Connection(up.address, device_key("sender")) as sender:
            sender.send({"type": "publish", "ref": 1, "recipient": reader.address, "ciphertext": b"one"})
            (answer,) = sender.receive(10)
            assert (answer["status"], sender.welcome["epoch"]) == ("stored", 1)
        assert take_all(up.address, reader) == {answer["id"]}
        engine = PostgresServer(folder / "engine")
        engine.port = int((folder / "engine" / "data" / "postmaster.pid").read_text().splitlines()[3])
        assert postgres_epoch(engine.dsn()) == 1

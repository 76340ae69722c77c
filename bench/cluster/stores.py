"""The stores of a relay in pods, each with a record of the epoch of every commit, in the order of the commits.

The record is kept by the engine itself: a trigger on the row that every commit of a relay has to change.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from testbed import places, volumes
from testbed.kubectl import Kubectl

from bench.cluster.pods import NAME, RelayInPods
from bench.postgres import PostgresServer, engine_beside
from bench.runner import store_folder

_SQLITE: Final = """
    CREATE TABLE epochs (n INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL);
    CREATE TRIGGER record_epoch AFTER UPDATE ON relay BEGIN INSERT INTO epochs (epoch) VALUES (NEW.epoch); END;
"""
_POSTGRES: Final = """
    CREATE TABLE public.epochs (n bigserial PRIMARY KEY, epoch int8 NOT NULL);
    CREATE FUNCTION public.record_epoch() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.epochs (epoch) VALUES (NEW.epoch); RETURN NULL; END';
    CREATE TRIGGER record_epoch AFTER UPDATE ON posthouse.relay FOR EACH ROW EXECUTE FUNCTION public.record_epoch();
"""


class EpochRecord(Protocol):
    """What a store has recorded of its commits."""

    def changes(self) -> list[tuple[int, int]]:
        """Epochs in the order of their commits, equal ones in a row taken together: each with how many they were."""


class SqliteRecord:
    """Of the SQLite file on the relay's volume, read on the machine that the node is on."""

    def __init__(self, relay: RelayInPods) -> None:
        """Begins to record. The relay runs."""
        volume = relay.kubectl.get("persistentvolumeclaim", NAME)["spec"]["volumeName"]
        self._file = volumes.folder(volume) / "posthouse.db"
        with closing(sqlite3.connect(self._file, timeout=10)) as connection:
            connection.executescript(_SQLITE)

    def changes(self) -> list[tuple[int, int]]:
        """As of now."""
        with closing(sqlite3.connect(self._file, timeout=10)) as connection:
            return _together(connection.execute("SELECT epoch FROM epochs ORDER BY n"))


class PostgresRecord:
    """Of a database."""

    def __init__(self, dsn: str) -> None:
        """Begins to record. The relay runs, or did."""
        self._dsn = dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(_POSTGRES)

    def changes(self) -> list[tuple[int, int]]:
        """As of now."""
        with psycopg.connect(self._dsn) as connection:
            return _together(connection.execute("SELECT epoch FROM public.epochs ORDER BY n"))


def _together(rows: Any) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for (epoch,) in rows:
        count = found.pop()[1] if found and found[-1][0] == epoch else 0
        found.append((epoch, count + 1))
    return found


@contextmanager
def postgres_for_pods() -> Iterator[PostgresServer]:
    """A server on this machine that the pods of the test cluster reach. Raises RunFailed, NotMeasured."""
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=store_folder(), ignore_cleanup_errors=True
    ) as folder, engine_beside(Path(folder)) as server:  # fmt: skip
        with (server.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {places.CLUSTER_CIDR} trust\n")
        server.stop()
        server.settings["listen_addresses"] = f"127.0.0.1,{places.MACHINE}"
        server.start()
        yield server


def make_secrets(kubectl: Kubectl, server: PostgresServer) -> None:
    """The two Secrets that the example for PostgreSQL needs."""
    store = {"uri": server.url().replace("127.0.0.1", places.MACHINE)}
    for name, data in (("posthouse-store", store), ("posthouse-peer", _certificates())):
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        kubectl.apply(
            json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded})
        )


def _certificates() -> dict[str, str]:
    """As the example's README makes them."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for words in (
            "req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=members -keyout ca.key -out ca.crt",
            "req -newkey rsa:2048 -nodes -subj /CN=member -keyout tls.key -out tls.csr",
            "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out tls.crt",
        ):
            subprocess.run(["openssl", *words.split()], cwd=place, check=True, capture_output=True)
        return {name: (place / name).read_text() for name in ("tls.crt", "tls.key", "ca.crt")}

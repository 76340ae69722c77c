"""Real PostgreSQL servers for tests, each in a folder of its own, ended by the numbers of its own processes."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import psycopg
from machine import is_root, need

USER = "posthouse"
DATABASE = "posthouse"
READY_S = 30.0
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")
_QUICK = {"fsync": "off", "synchronous_commit": "on"}


@cache
def programs() -> Path | None:
    """The folder with the server's programs; None if there is none."""
    found = shutil.which("postgres")
    if found is not None and (folder := Path(found).resolve().parent / "initdb").exists():
        return folder.parent
    folders = [folder for place in _PLACES for folder in Path("/").glob(place[1:])]
    return max((folder for folder in folders if (folder / "postgres").exists()), default=None)


def need_server() -> None:
    """Skip the test, or fail it where a server is required."""
    need(
        "postgresql", programs() is not None, "no PostgreSQL server here: the PostgreSQL store is not tested"
    )


def _as_whom() -> dict[str, object]:
    """A server refuses to run as root: whom it runs as instead."""
    if not is_root():
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("no user but root to run a server as")


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PostgresServer:
    """One server. `settings` are its own, as in postgresql.conf."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The server's data."""
        return self.folder / "data"

    def url(self, schema: str = "posthouse", port: int | None = None) -> str:
        """A store on this server, perhaps by another way to it."""
        return f"postgresql://{USER}@127.0.0.1:{port or self.port}/{DATABASE}?schema={schema}"

    def make(self) -> None:
        """A new cluster with an empty database."""
        self._run(
            "initdb", "-D", str(self.data), "-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8", "--locale=C"
        )
        self.start()
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def copy_of(self, primary: "PostgresServer", name: str) -> None:
        """A standby that follows `primary` under this name."""
        where = f"host=127.0.0.1 port={primary.port} user={USER} application_name={name}"
        self._run(
            "pg_basebackup",
            "-D",
            str(self.data),
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-d",
            where,
        )
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        folder = programs()
        assert folder is not None
        done = subprocess.run(
            [folder / program, *arguments],
            cwd=self.folder,
            capture_output=True,
            timeout=60,
            check=False,
            **_as_whom(),
        )  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start it and wait until it answers."""
        folder = programs()
        assert folder is not None
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "max_connections": "40",
            **self.settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [folder / "postgres", "-D", self.data, *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **_as_whom(),
            )  # type: ignore[call-overload]
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.02)

    def connect(self, database: str = DATABASE) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection for the test itself."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, dbname=database, autocommit=True, connect_timeout=2
        )

    def _pids(self) -> list[int]:
        """The server's processes, the first one first."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """All of its processes at once, as when its machine dies."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, none of its processes does anything; the kernel still answers for them."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby a primary, and wait until it is one."""
        with self.connect("postgres") as connection:
            assert connection.execute("SELECT pg_promote(true, 30)").fetchone() == (True,)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that the server's user owns: in memory where there is one, as a server writes a lot."""
    place = (
        "/dev/shm"
        if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 30
        else None
    )
    folder = Path(tempfile.mkdtemp(prefix="posthouse-postgres-", dir=place))
    try:
        whom = _as_whom()
        if whom:
            os.chown(folder, whom["user"], whom["group"])  # type: ignore[arg-type]
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_server(settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """A new server with an empty database, ended afterwards. Without `settings` it forgets with the power."""
    with server_folder() as folder:
        server = PostgresServer(folder, _QUICK if settings is None else settings)
        try:
            server.make()
            yield server
        finally:
            server.stop()


def emptied(server: PostgresServer, schema: str) -> None:
    """Bring a store to where it was when it was made, if it has been: much quicker than making another."""
    with server.connect() as connection:
        there = connection.execute("SELECT to_regclass(%s)", (f"{schema}.relay",)).fetchone()
        if there == (None,):
            return
        for table in ("message", "mailbox", "mark", "reader"):
            connection.execute(f"DELETE FROM {schema}.{table}")
        connection.execute(
            f"UPDATE {schema}.relay SET incarnation = sha256(incarnation), epoch = 0, token = '', attempt = 0, "
            "batch = 0, clock_ms = 0, next_seq = 1, next_stamp = 1, count = 0, bytes = 0, guest_count = 0, "
            "guest_bytes = 0, touched = '{}'"
        )
        connection.execute(f"UPDATE {schema}.relay SET incarnation = substr(incarnation, 1, 16)")

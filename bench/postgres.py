"""A real PostgreSQL server in a folder of its own, with everything that makes commits last switched on."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from bench.errors import NotMeasured, RunFailed

USER = DATABASE = "posthouse"
START_LIMIT_S = 30.0
STOP_LIMIT_S = 20.0
STEP_LIMIT_S = 60.0
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")


@cache
def programs() -> Path:
    """The folder with the server's programs. Raises NotMeasured when there is none."""
    found = shutil.which("postgres")
    if found is not None and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    folders = [folder for place in _PLACES for folder in Path("/").glob(place[1:])]
    folders = [folder for folder in folders if (folder / "postgres").exists()]
    if not folders:
        raise NotMeasured("postgresql: not measured: not installed (Debian: apt-get install postgresql)")
    return max(folders)


def version() -> str:
    """Of the installed server. Raises NotMeasured."""
    done = subprocess.run([programs() / "postgres", "--version"], capture_output=True, text=True, check=False)
    return next((word for word in done.stdout.split() if word[:1].isdigit()), "unknown")


class PostgresServer:
    """One server on a free port of 127.0.0.1. The folder must be reachable by the user that it runs as."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.settings = dict(settings or {})
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The first of its processes; the others are its children."""
        if self._process is None:
            raise RunFailed("the PostgreSQL server was never started")
        return self._process.pid

    def url(self) -> str:
        """A store of posthouse on this server."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    def dsn(self) -> str:
        """The same for psycopg."""
        return f"host=127.0.0.1 port={self.port} user={USER} dbname={DATABASE} connect_timeout=5"

    def make(self) -> None:
        """A new cluster with an empty database, started. Raises RunFailed."""
        user, group, _ = _as_whom()
        if user is not None and group is not None:
            os.chown(self.folder, user, group)
        _run(self.folder, "initdb", "-D", "data", "-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.start()
        _run(self.folder, "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, DATABASE)

    def start(self) -> None:
        """Start it and wait until it answers. Raises RunFailed."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            **self.settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        user, group, groups = _as_whom()
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [programs() / "postgres", "-D", "data", *options], cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, user=user, group=group, extra_groups=groups,
            )  # fmt: skip
        end = time.monotonic() + START_LIMIT_S
        ready = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER]
        while subprocess.run(ready, capture_output=True, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > end:
                lines = (self.folder / "postgres.log").read_text(errors="replace").strip().splitlines()
                raise RunFailed(f"the PostgreSQL server did not come up: {(lines or ['no log'])[-1][:200]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, sessions and all, if it runs."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()


@contextmanager
def engine_beside(folder: Path) -> Iterator[PostgresServer]:
    """A new server in a folder within this one, never pinned, ended on the way out. Raises RunFailed, NotMeasured."""
    place = folder / "engine"
    place.mkdir()
    folder.chmod(0o711)  # the server is another user, and this folder is on its way
    server = PostgresServer(place)
    try:
        server.make()
        yield server
    finally:
        server.stop()


def _as_whom() -> tuple[int | None, int | None, list[int] | None]:
    """A server refuses to run as root: the user, group and further groups that it runs as instead."""
    if os.geteuid() != 0:
        return None, None, None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid, []
    raise RunFailed("no user but root to run a PostgreSQL server as")


def _run(folder: Path, program: str, *arguments: str) -> None:
    user, group, groups = _as_whom()
    try:
        done = subprocess.run(
            [programs() / program, *arguments], cwd=folder, capture_output=True, text=True,
            timeout=STEP_LIMIT_S, check=False, user=user, group=group, extra_groups=groups,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{program} did not end within {STEP_LIMIT_S:.0f} s") from error
    except PermissionError as error:
        raise RunFailed(
            f"{program} may not enter its folder as another user than root: set TMPDIR to a folder open to all"
        ) from error
    if done.returncode != 0:
        raise RunFailed(f"{program}: {(done.stderr.strip().splitlines() or ['failed'])[0][:200]}")

"""The image: what it says of itself, what it holds, and that it serves with nothing but its data folder to write to."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
import pytest
from posthouse import Client, DeviceKey
from testbed import images, places

USER = 65532
DATA = "var/lib/posthouse"
READ_ONLY = """
set -eu
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=0755 tmpfs "$ROOT/dev"
for device in null urandom; do touch "$ROOT/dev/$device"; mount --bind "/dev/$device" "$ROOT/dev/$device"; done
mount --bind "$DATA" "$ROOT/var/lib/posthouse"
mount -o remount,bind,ro "$ROOT"
exec setpriv --no-new-privs "$@"
"""
"""What a runtime does for a container with a read-only root file system; the words after it are its first process."""
KUBECONFIG = {
    "current-context": "x",
    "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    "clusters": [{"name": "x", "cluster": {"server": "https://198.18.0.1:6443"}}],
    "users": [{"name": "x", "user": {"token": "x"}}],
}

pytestmark = pytest.mark.timeout(1800)


class Image:
    """What is in the archive: its configuration, and its files in a folder."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir(mode=0o755)
        with tarfile.open(archive) as parts:
            manifest = self._json(parts, "manifest.json")[0]
            self.config: dict[str, Any] = self._json(parts, manifest["Config"])["config"]
            self.layers: list[str] = manifest["Layers"]
            for layer in self.layers:
                parts.extract(layer, folder, filter="data")
                self._add(folder / layer)

    @staticmethod
    def _json(parts: tarfile.TarFile, name: str) -> Any:
        file = parts.extractfile(name)
        assert file is not None
        return json.load(file)

    def _add(self, layer: Path) -> None:
        with tarfile.open(layer) as files:
            self.added = [name for name in files.getnames() if "/.wh." not in f"/{name}"]
            removed = [name for name in files.getnames() if "/.wh." in f"/{name}"]
        for name in removed:
            gone = self.root / Path(name).parent / Path(name).name.removeprefix(".wh.")
            shutil.rmtree(gone) if gone.is_dir() and not gone.is_symlink() else gone.unlink(missing_ok=True)
        # --keep-directory-symlink: /lib may be a link to /usr/lib in one layer and a folder in the next.
        rules = ["-p", "--numeric-owner", "--keep-directory-symlink", "--exclude=.wh.*"]
        subprocess.run(["tar", "-xf", str(layer), "-C", str(self.root), *rules], check=True)
        layer.unlink()

    def process(self, data: Path, *command: str) -> subprocess.Popen[str]:
        """The command as the first process of a container with only `data` to write to."""
        chroot = shutil.which("chroot")
        assert chroot is not None
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", READ_ONLY, "sh"]
        enter = [chroot, f"--userspec={USER}:{USER}", "--groups=", str(self.root)]
        return subprocess.Popen(
            [*unshare, "env", "-i", *self.config["Env"], *enter, *command],
            env={**os.environ, "ROOT": str(self.root), "DATA": str(data)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, data: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """The same, until it ends."""
        with self.process(data, *command) as process:
            out, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out, errors)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    builder = machine.runs("docker", "info") or shutil.which("buildah") is not None
    able = machine.is_root() and builder and machine.runs("unshare", "--mount", "--pid", "--fork", "true")
    machine.need("cluster", able, "the image is not tested: needs root, and docker or buildah")
    archive = images.relay_image(places.cache())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Image(archive, Path(folder))


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, USER, USER)
        yield Path(folder)


def python(image: Image, data: Path, code: str) -> str:
    done = image.run(data, "python3", "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_starts_the_relay_without_a_shell_and_without_root(image: Image) -> None:
    assert image.config["Entrypoint"] == ["posthouse"]
    assert image.config["Cmd"] == ["serve"]
    assert image.config["User"] == f"{USER}:{USER}"
    assert image.config["WorkingDir"] == f"/{DATA}"
    assert image.config["StopSignal"] == "SIGTERM"
    assert set(image.config["ExposedPorts"]) == {"8080/tcp", "8081/tcp", "9090/tcp"}


def test_its_labels_say_what_it_is(image: Image) -> None:
    version = re.search(r'^version = "(.+)"', (images.ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    labels = {
        name.removeprefix("org.opencontainers.image."): text for name, text in image.config["Labels"].items()
    }
    assert labels["title"] == "Posthouse"
    assert labels["description"]
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == version[1]
    assert labels["revision"] == "under-test"


def test_its_user_may_write_to_the_data_folder_and_to_nothing_else_of_ours(image: Image) -> None:
    entries = [(name, (image.root / name).lstat()) for name in image.added]
    assert [name for name, stat in entries if stat.st_uid == USER] == [DATA]
    links_aside = [(name, stat) for name, stat in entries if not (image.root / name).is_symlink()]
    assert not [name for name, stat in links_aside if stat.st_mode & 0o022]
    assert not [name for name, stat in links_aside if stat.st_mode & 0o6000]


def test_it_adds_one_virtual_environment_without_what_only_a_build_needs(image: Image) -> None:
    assert {name.split("/")[0] for name in image.added} <= {"opt", "var"}
    assert not list((image.root / DATA).iterdir())
    words = {part for name in image.added for part in name.split("/")}
    assert not words & {"pip", "setuptools", "wheel", "pytest", "tests"}
    assert not [name for name in image.added if name.endswith((".pyi", "_test.py"))]
    secrets = [name for name in image.added if name.endswith(("pip.conf", "ca.crt"))]
    assert not secrets


def test_every_module_is_compiled_for_good(image: Image) -> None:
    """Else a root file system that is read-only would have each start compile it again, or look for a newer source."""
    packages = next(image.root.glob("opt/posthouse/lib/python3.*/site-packages"))
    compiled = list(packages.glob("posthouse/**/*.pyc"))
    assert len(compiled) == len(list(packages.glob("posthouse/**/*.py"))) > 50
    assert {path.read_bytes()[4:8] for path in packages.rglob("*.pyc")} == {b"\x01\0\0\0"}
    sources = {path.parent / "__pycache__" / path.stem for path in packages.rglob("*.py")}
    orphans = [
        path for path in packages.rglob("*.pyc") if path.parent / path.name.split(".")[0] not in sources
    ]
    assert not orphans


def test_what_was_left_out_is_not_missed(image: Image, data: Path) -> None:
    """The blocking client is there as far as kopf takes its configuration from it, and no further."""
    code = (
        "import kubernetes.aio.client as c; c.CoordinationV1Api, c.CoreV1Api, c.V1Lease(spec=c.V1LeaseSpec())"
    )
    python(image, data, code)
    (data / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    code = f"import os; os.environ['KUBECONFIG'] = '/{DATA}/kubeconfig'; import kopf, logging; "
    code += (
        "print(kopf.login_via_client(logger=logging.getLogger(), settings=kopf.OperatorSettings()).server)"
    )
    assert python(image, data, code) == "https://198.18.0.1:6443"
    code = "import psycopg, apsw, zoneinfo; print(psycopg.pq.__impl__, zoneinfo.ZoneInfo('Europe/Vienna'))"
    assert python(image, data, code) == "binary Europe/Vienna"


def test_the_command_line_says_its_version(image: Image, data: Path) -> None:
    done = image.run(data, *image.config["Entrypoint"], "--version")
    version = image.config["Labels"]["org.opencontainers.image.version"]
    assert (done.returncode, done.stdout, done.stderr) == (0, f"posthouse, version {version}\n", "")


def test_nothing_but_the_data_folder_can_be_written(image: Image, data: Path) -> None:
    """This is what the next test stands on."""
    python(image, data, f"open('/{DATA}/probe', 'w')")
    for place in ("/tmp", "/opt/posthouse", "/"):
        done = image.run(data, "python3", "-c", f"open({place!r} + '/probe', 'w')")
        assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr
        assert done.returncode == 1


async def send_and_read(url: str) -> list[bytes]:
    reader = DeviceKey(os.urandom(32))
    async with Client(url, DeviceKey(os.urandom(32))) as sender:
        assert (await sender.send(reader.address, b"kept")).status == "stored"
    async with Client(url, reader) as client:
        await client.subscribe()
        return [message.ciphertext async for message in client.messages(until_caught_up=True)]


def test_it_serves_as_the_first_process_of_a_read_only_container_and_ends_well(
    image: Image, data: Path
) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"]
    command = [
        *image.config["Entrypoint"],
        *image.config["Cmd"],
        "--store",
        f"sqlite:////{DATA}/x.db",
        *arguments,
    ]
    with image.process(data, *command) as process:
        try:
            assert process.stderr is not None
            lines = (json.loads(line) for line in process.stderr)
            listening = next(line for line in lines if line["event"] == "listening")
            with urllib.request.urlopen(f"http://{listening['metrics']}/readyz", timeout=10) as answer:
                assert answer.status == 200
            assert asyncio.run(send_and_read(f"ws://{listening['address']}")) == [b"kept"]
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            first = int(children[0])
            status = Path(f"/proc/{first}/status").read_text()
            assert re.search(rf"^Uid:\t{USER}\t{USER}\t{USER}\t{USER}$", status, re.MULTILINE)
            assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE)
            os.kill(first, signal.SIGTERM)
            events = [line["event"] for line in lines]
            assert process.wait(60) == 0, events
        finally:
            process.kill()
    assert (data / "x.db").stat().st_uid == USER

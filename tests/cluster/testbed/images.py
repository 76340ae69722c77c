"""The images of the test cluster, as archives that its nodes take in.

Docker builds them if it runs here, else buildah. The base is the public Python image; where no registry can be reached,
a Debian with its own Python, which takes some minutes. An archive is made again only when what it is made of has
changed: half a minute for the relay's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as remembered
from pathlib import Path

from testbed.commands import ClusterError, missing, run, succeeds

ROOT = Path(__file__).resolve().parents[3]
SOURCES = Path(__file__).with_suffix("")
PAUSE = "localhost/pause:1"
RELAY = "localhost/posthouse:test"
DEBIAN = "localhost/python:base"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
INPUTS = (
    "Dockerfile",
    ".dockerignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "relay",
    "operator",
    "requirements",
)
KEPT = 2
"""Archives of the relay that stay: the newest, and one that somebody may be reading."""
DATE = "315532800"
"""The same for each build, so that the same inputs give the same image."""
PULL_S = 300.0
BUILD_S = 1800.0


def pause_image(cache: Path) -> Path:
    """Archive of the image that holds a pod's namespaces. Raises ClusterError."""
    with _only_one(cache):
        inputs = [SOURCES / "pause.c", SOURCES / "pause.Dockerfile"]
        archive = cache / f"pause-{_digest(SOURCES, inputs)}.tar"
        if not archive.exists():
            _require({"gcc": "gcc"})
            with tempfile.TemporaryDirectory() as folder:
                run(["gcc", "-static", "-O2", "-s", "-o", Path(folder) / "pause", SOURCES / "pause.c"])
                _build(PAUSE, SOURCES / "pause.Dockerfile", Path(folder))
            _save(PAUSE, archive)
        return archive


def base_image(cache: Path) -> str:
    """Name of a Python image that the builder has. Raises ClusterError."""
    with _only_one(cache):
        return _base(cache)


def relay_image(cache: Path) -> Path:
    """Archive of the image of this working tree. Raises ClusterError."""
    with _only_one(cache):
        base = _base(cache)
        inputs = [ROOT / name for name in INPUTS]
        archive = cache / f"posthouse-{_digest(ROOT, inputs, _id(base))}.tar"
        if archive.exists():
            archive.touch()
        else:
            before = _id(RELAY)
            settings = [
                f"BUILDER={_builder()}",
                f"IMAGE={RELAY}",
                f"PYTHON_IMAGE={base}",
                "REVISION=under-test",
            ]
            run(["make", "-C", ROOT, "image", *settings], timeout_s=BUILD_S, environment=_environment())
            _save(RELAY, archive)
            if before not in ("", _id(RELAY)):
                # It fails while another name or a container uses that image: then it is theirs.
                succeeds([_builder(), "rmi", before])
        archives = sorted(cache.glob("posthouse-*.tar"), key=lambda path: path.stat().st_mtime)
        for old in archives[:-KEPT]:
            old.unlink()
        return archive


def _base(cache: Path) -> str:
    public = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if public is None:
        raise ClusterError("the Dockerfile names no PYTHON_IMAGE")
    # One that is here already comes before one that is to be fetched: no network is asked twice.
    for name in (public[1], DEBIAN):
        if _id(name):
            return name
    archive = cache / "python-bookworm.tar"
    if not archive.exists() and succeeds([_builder(), "pull", public[1]], timeout_s=PULL_S):
        return public[1]
    if archive.exists():
        source = (
            ["load", "-i", str(archive)] if _builder() == "docker" else ["pull", f"docker-archive:{archive}"]
        )
        run([_builder(), *source], timeout_s=PULL_S)
    else:
        _debian(archive)
    return DEBIAN


def _debian(archive: Path) -> None:
    """A small Debian with Python, for a machine that reaches a Debian mirror but no image registry."""
    _require({"debootstrap": "debootstrap", "tar": "tar"})
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name) / "image", Path(name) / "root"
        folder.mkdir()
        run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root], timeout_s=BUILD_S
        )
        unneeded = ["--exclude=./var/cache/apt", "--exclude=./var/lib/apt/lists"]
        run(["tar", "-cf", folder / "root.tar", "-C", root, *unneeded, "."])
        _build(DEBIAN, SOURCES / "python.Dockerfile", folder)
    _save(DEBIAN, archive)


@remembered
def _builder() -> str:
    if succeeds(["docker", "info"]):
        return "docker"
    _require({"buildah": "buildah"})
    return "buildah"


def _require(programs: dict[str, str]) -> None:
    if packages := missing(programs):
        raise ClusterError(f"images of the test cluster need: {' '.join(packages)}")


def _environment() -> dict[str, str]:
    return {**os.environ, "SOURCE_DATE_EPOCH": DATE}


def _build(name: str, dockerfile: Path, folder: Path) -> None:
    command = {
        "docker": ["docker", "build"],
        "buildah": ["buildah", "bud", "--isolation", "chroot", "--timestamp", DATE],
    }
    run(
        [*command[_builder()], "-t", name, "-f", dockerfile, folder],
        timeout_s=BUILD_S,
        environment=_environment(),
    )


def _id(name: str) -> str:
    """The builder's id of an image; empty if it has none of this name."""
    form = "{{.Id}}" if _builder() == "docker" else "{{.FromImageID}}"
    try:
        return run([_builder(), "inspect", "--type", "image", "--format", form, name]).strip()
    except ClusterError:
        return ""


def _save(name: str, archive: Path) -> None:
    """Under its name only when it is complete."""
    part = archive.with_suffix(".part")
    part.unlink(missing_ok=True)
    if _builder() == "docker":
        run(["docker", "save", "-o", part, name], timeout_s=BUILD_S)
    else:
        run(["buildah", "push", "--quiet", name, f"docker-archive:{part}:{name}"], timeout_s=BUILD_S)
    part.rename(archive)


def _digest(root: Path, paths: list[Path], *more: str) -> str:
    """Of names, contents and rights of the files that a builder would take."""
    found = hashlib.sha256("\0".join(more).encode())
    for path in sorted(file for given in paths for file in [given, *given.rglob("*")] if file.is_file()):
        if not any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts):
            words = f"{path.relative_to(root)}\0{path.stat().st_mode & 0o111:o}\0{path.stat().st_size}\0"
            found.update(words.encode() + path.read_bytes())
    return found.hexdigest()[:16]


@contextmanager
def _only_one(cache: Path) -> Iterator[None]:
    """Two builds of the same thing would do all the work twice."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

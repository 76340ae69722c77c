"""What the test cluster is made with, as far as that needs no cluster: processes, builds, the choice of a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from machine import need
from testbed import build, choice, cluster, places
from testbed.commands import ClusterError, run, until
from testbed.processes import Process

# --- processes and commands


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    need("linux", sys.platform == "linux", "not Linux: the test cluster's means are not tested")
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


def test_a_number_that_passed_to_another_process_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    with sleeper:
        now = Process.of(sleeper.pid)
        assert now is not None
        before = Process(now.pid, now.started - 1)
        assert not before.lives
        assert not before.signal(signal.SIGKILL)
        assert now.lives
        now.freeze()
        assert now.frozen
        now.kill()
        assert now.state in ("", "Z")


def test_a_wait_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    with pytest.raises(ClusterError, match=r"readiness of x: not within 0 s.*(?s:.)*line 99") as caught:
        until(lambda: False, "readiness of x", 0, log)
    assert "line 50" not in str(caught.value)


def test_a_command_that_fails_says_why_in_a_line() -> None:
    with pytest.raises(ClusterError, match="there-is-no-such-program is not installed"):
        run(["there-is-no-such-program"])
    with pytest.raises(ClusterError, match=r"exit 3: first / second$") as caught:
        run([sys.executable, "-c", "import sys; print('first\\nsecond', file=sys.stderr); sys.exit(3)"])
    assert "\n" not in str(caught.value)[-40:]


# --- builds


def test_what_is_built_is_known_by_versions_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build.digest()
    assert build.digest() == before
    shutil.copytree(build.SOURCES, tmp_path / "go")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "go")
    assert build.digest() == before
    with (tmp_path / "go" / "coredns" / "go.sum").open("a") as file:
        file.write("another\n")
    changed = build.digest()
    assert changed != before
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-race"))
    assert build.digest() not in (before, changed)


def test_an_interrupted_build_is_not_taken_for_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is replaced by one that fails at the third program."""
    compiler = tmp_path / "bin" / "go"
    compiler.parent.mkdir()
    compiler.write_text(
        '#!/bin/sh\necho x >> "$COUNT"\n[ "$(wc -l < "$COUNT")" -eq 3 ] && exit 1\n'
        'while [ "$1" != -o ]; do shift; done\nmkdir -p "$(dirname "$2")"; echo made > "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    with pytest.raises(ClusterError, match="exit 1"):
        build.programs()
    assert list(places.cache().iterdir()) == []
    assert {file.name for file in build.programs().iterdir()} == set(build.PROGRAMS)
    calls = (tmp_path / "count").read_text()
    build.programs()
    assert (tmp_path / "count").read_text() == calls


# --- the choice of a cluster


@pytest.fixture
def machine_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with none of the tools; programs put into the folder are there. What they are told is in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return folder


def put(folder: Path, name: str, status: int = 0) -> None:
    """A program that notes what it is told, and what it reads if it is told to."""
    program = folder / name
    program.write_text(
        f'#!/bin/sh\necho "{name} $*" >> "$CALLS"\n'
        f'case "$*" in *"--config -") cat >> "$CALLS"; echo >> "$CALLS";; esac\nexit {status}\n'
    )
    program.chmod(0o755)


def calls(folder: Path) -> list[str]:
    return (folder.parent / "calls").read_text().splitlines()


def test_our_own_cluster_is_taken_where_nothing_else_is(machine_without: Path) -> None:
    assert choice.fitting() is None
    put(machine_without, "kind", status=1)  # it is installed, but its container engine does not run
    assert choice.fitting() is None


def test_a_given_cluster_comes_first_and_only_until_it_is_forgotten(
    machine_without: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(machine_without, "kind")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert choice.fitting() == choice.GIVEN
    with pytest.raises(ClusterError, match="config is not a file"):
        choice.create(choice.GIVEN)
    assert choice.chosen() is None
    (tmp_path / "config").write_text("x")
    choice.create(choice.GIVEN)
    monkeypatch.delenv("KUBECONFIG")
    assert choice.chosen() == choice.GIVEN
    assert places.kubeconfig().read_text() == "x"
    with pytest.raises(ClusterError, match="by hand"):
        choice.load(choice.GIVEN, tmp_path / "image.tar")
    choice.delete(choice.GIVEN)
    assert choice.chosen() is None
    assert (tmp_path / "config").read_text() == "x"


def test_a_machine_has_one_cluster_of_our_own(
    machine_without: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = tmp_path / "claim"
    monkeypatch.setattr(places, "CLAIM", claim)
    with cluster.changing():
        pass
    claim.write_text(str(tmp_path))
    with pytest.raises(ClusterError, match=r"this machine runs a cluster in .* already"), cluster.changing():
        pass
    claim.write_text(str(tmp_path / "removed"))
    with cluster.changing():
        pass


def test_the_kubeconfig_of_our_own_is_no_other_cluster(
    machine_without: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(places.kubeconfig()))
    assert choice.fitting() is None


def test_kind_is_told_to_make_load_and_delete(machine_without: Path, tmp_path: Path) -> None:
    put(machine_without, "kind")
    put(machine_without, "k3d")
    assert choice.fitting() == "kind"
    choice.create("kind")
    assert choice.chosen() == "kind"
    choice.load("kind", tmp_path / "image.tar")
    choice.delete("kind")
    assert choice.chosen() is None
    said = calls(machine_without)
    assert f"kind create cluster --name posthouse --kubeconfig {places.kubeconfig()} --config -" in said
    assert said.count("kind get clusters") == 1
    assert sum(line.count('"worker"') for line in said) == 2
    assert said[-2:] == [
        f"kind load image-archive {tmp_path}/image.tar --name posthouse",
        "kind delete cluster --name posthouse",
    ]


def test_k3d_is_taken_where_kind_is_not(machine_without: Path, tmp_path: Path) -> None:
    put(machine_without, "k3d")
    assert choice.fitting() == "k3d"
    choice.create("k3d")
    choice.load("k3d", tmp_path / "image.tar")
    choice.delete("k3d")
    assert [line.split(" --")[0] for line in calls(machine_without)] == [
        "k3d cluster list",
        "k3d cluster create posthouse",
        "k3d kubeconfig write posthouse",
        f"k3d image import {tmp_path}/image.tar",
        "k3d cluster delete posthouse",
    ]

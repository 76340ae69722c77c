"""A test for which this machine lacks something is skipped and named, or fails where it is required."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

SUITE = """
import pytest
from machine import need

@pytest.mark.parametrize("n", [1, 2])
def test_on_the_moon(n):
    need("moon", False, "no moon in reach: tides are not tested")

def test_here():
    need("ground", True, "no ground")
"""


def run_suite(folder: Path, required: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(SUITE)
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS / "support", TESTS / "cluster"))),
        "POSTHOUSE_REQUIRE": required,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=environ
    )


def test_what_cannot_run_is_named_once_with_its_reason(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("cannot run here: no moon in reach: tides are not tested (2 skipped)") == 1
    assert done.stdout.count("cannot run here:") == 1


def test_what_is_required_fails_instead(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "ground, moon")
    assert done.returncode == 1, done.stdout
    assert "moon is required here: no moon in reach" in done.stdout
    assert "2 failed, 1 passed" in done.stdout
    assert "cannot run here" not in done.stdout


def test_a_requirement_that_no_test_knows_is_named(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "grond")
    assert "required here, but no test of this run asked for it: grond" in done.stdout

"""The load generator's own tests, run by Go where Go is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

LOADGEN = Path(__file__).resolve().parents[2] / "bench" / "loadgen"


@pytest.mark.skipif(
    shutil.which("go") is None, reason="Go is not installed: the load generator is not tested"
)
def test_the_load_generator_passes_its_own_tests() -> None:
    done = subprocess.run(["go", "test", "./..."], cwd=LOADGEN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

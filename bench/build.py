"""Compile the load generator into `bench/.build`."""

import os
import shutil
import subprocess
from pathlib import Path

from bench.errors import BenchError

BENCH = Path(__file__).resolve().parent
BUILD = BENCH / ".build"


def build_load_generator() -> Path:
    """Return the compiled load generator; Go's own cache makes a second call quick.

    Raises BenchError when Go is missing or the code does not compile.
    """
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        raise BenchError("the load generator is written in Go: install Go 1.24 or newer (https://go.dev/dl)")
    BUILD.mkdir(exist_ok=True)
    program = BUILD / "loadgen"
    # No dependencies and no other toolchain: nothing is fetched.
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    done = subprocess.run(
        [go, "build", "-trimpath", "-o", str(program), "."],
        cwd=BENCH / "loadgen", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BenchError(f"the load generator does not compile: {done.stderr.strip()}")
    return program

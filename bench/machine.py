"""Facts about the machine that go beside the figures: no names, no paths."""

import os
import platform
import resource
import shutil
from pathlib import Path

SERVER_CORE = 0
GENERATOR_CORE = 1


def can_pin() -> bool:
    """Whether server and load generator can have a core each."""
    return {SERVER_CORE, GENERATOR_CORE} <= os.sched_getaffinity(0) and shutil.which("taskset") is not None


def on_core(core: int) -> tuple[str, ...]:
    """What to put before a command; taskset becomes the command, so the process id stays."""
    return ("taskset", "--cpu-list", str(core))


def raise_file_limit() -> int:
    """Let this process and its children open as many files as they may; return that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def kernel() -> str:
    return f"{platform.system()} {platform.release().partition('-')[0]}"


def file_system(folder: Path) -> str:
    """The type of the file system that holds folder, as the kernel names it."""
    here, best, kind = str(folder.resolve()), "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split(" ")
        inside = here == mount or here.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind

"""The memory watermark: what it measures, where it stands by default, and when it ends."""

from pathlib import Path

from posthouse.server import memory
from posthouse.server.memory import MemoryWatermark

MIB = 2**20


def test_it_is_exceeded_above_the_limit_and_ends_only_well_below() -> None:
    used = [0]
    watermark = MemoryWatermark(100 * MIB, lambda: used[0])
    seen = []
    for mib in (50, 100, 101, 99, 91, 89, 99, 100, 101):
        used[0] = mib * MIB
        seen.append((watermark.look(), watermark.exceeded))
    quiet, stays = (False, False), (False, True)
    assert seen == [quiet, quiet, (True, True), stays, stays, (True, False), quiet, quiet, (True, True)]
    assert watermark.used_bytes == 101 * MIB


def test_resident_memory_grows_with_what_is_held() -> None:
    before = memory.resident_bytes()
    held = bytearray(b"x") * (64 * MIB)
    assert memory.resident_bytes() - before > 48 * MIB
    assert len(held) == 64 * MIB


def test_the_default_is_three_quarters_of_what_there_is() -> None:
    limit = memory.default_limit_bytes()
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < limit <= total * 0.76


def groups(folder: Path, membership: str, limits: dict[str, str]) -> list[int]:
    (folder / "cgroup").write_text(membership)
    for name, text in limits.items():
        file = folder / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return sorted(memory._group_limits(folder / "cgroup", folder / "fs"))


def test_the_limits_of_control_groups_count_up_to_the_top(tmp_path: Path) -> None:
    limits = {
        "a/b/memory.max": "max\n",
        "a/memory.max": "1000\n",
        "memory.max": "3000\n",
        "c/memory.max": "5\n",
    }
    assert groups(tmp_path, "0::/a/b\n", limits) == [1000, 3000]


def test_a_path_of_the_host_is_looked_up_as_far_as_it_is_mounted_here(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/kubepods/pod1/x\n", {"memory.max": "2000\n"}) == [2000]


def test_version_1_groups_count(tmp_path: Path) -> None:
    membership = "5:cpu,cpuacct:/a\n4:memory:/a\n"
    assert groups(
        tmp_path, membership, {"memory/a/memory.limit_in_bytes": "700\n", "a/memory.max": "1\n"}
    ) == [700]


def test_a_system_without_control_groups_has_no_limits_of_them(tmp_path: Path) -> None:
    assert memory._group_limits(tmp_path / "none", tmp_path) == []

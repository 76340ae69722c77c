"""A VFS for SQLite that remembers every change of a file, so that a test can say what a power cut would leave.

What a disk holds after a power cut: everything synced, and any part of what was written since, in any order and torn
at sectors. A sync that fails may have dropped what it should have written, and no later sync brings that back, though
reading still shows it: so it is here too. A new file's name is durable once its directory is synced; SQLite's own VFS
does that with the first sync of a new journal or log.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

SECTOR = 512
_numbers = itertools.count()


@dataclass
class DiskFile:
    """One file: what is synced, and what was changed since."""

    name_is_durable: bool = False
    content: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes (offset, data) and truncations (size, None), in their order."""
    is_log: bool = False


def _apply(content: bytearray, change: tuple[int, bytes | None]) -> None:
    offset, data = change
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """What the files of one directory would be after a power cut now."""

    def __init__(self, on_step: Callable[[str], None] = lambda step: None) -> None:
        self.files: dict[str, DiskFile] = {}
        self.deleted: dict[str, DiskFile] = {}
        """Files whose names may come back, as the directory is not synced."""
        self.on_step = on_step
        """Called before every change; what it raises or kills ends the test's work at that point."""
        self.failing_syncs: list[str] = []
        """Endings of file names whose next sync fails, once each."""
        self.sync_failures = 0

    def synced(self, name: str) -> None:
        file = self.files[name]
        for change in file.pending:
            _apply(file.content, change)
        file.pending.clear()
        if file.is_log:
            self.directory_synced()

    def directory_synced(self) -> None:
        self.deleted.clear()
        for file in self.files.values():
            file.name_is_durable = True

    def leave(self, folder: Path, rng: random.Random | None, share: float) -> None:
        """Write what a power cut leaves into a folder: of the unsynced changes each sector with this probability."""
        back = {name: file for name, file in self.deleted.items() if rng is not None and rng.random() < share}
        for name, file in (back | self.files).items():
            if not file.name_is_durable and (rng is None or rng.random() >= share):
                continue
            content = bytearray(file.content)
            for offset, data in file.pending:
                if data is None:
                    if rng is not None and rng.random() < share:
                        _apply(content, (offset, None))
                    continue
                for at in range(0, len(data), SECTOR):
                    if rng is not None and rng.random() < share:
                        _apply(content, (offset + at, data[at : at + SECTOR]))
            (folder / Path(name).name).write_bytes(content)


class _File(apsw.VFSFile):
    def __init__(
        self, base: str, filename: apsw.URIFilename | str | None, flags: list[int], disk: Disk
    ) -> None:
        super().__init__(base, filename, flags)
        self._disk = disk
        self._name = filename.filename() if isinstance(filename, apsw.URIFilename) else str(filename)
        kind = flags[0]
        log = kind & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)
        if log or kind & apsw.SQLITE_OPEN_MAIN_DB:
            disk.files.setdefault(self._name, DiskFile(is_log=bool(log)))
        self._tracked = self._name in disk.files

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._tracked:
            self._disk.on_step("write")
            self._disk.files[self._name].pending.append((offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        if self._tracked:
            self._disk.on_step("truncate")
            self._disk.files[self._name].pending.append((newsize, None))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        disk = self._disk
        if self._tracked:
            disk.on_step("sync")
            for ending in disk.failing_syncs:
                if self._name.endswith(ending):
                    disk.failing_syncs.remove(ending)
                    disk.files[self._name].pending.clear()  # dropped by the kernel, though reading shows it
                    disk.sync_failures += 1
                    error = apsw.IOError("sync failed")
                    error.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
                    raise error
        super().xSync(flags)
        if self._tracked:
            disk.synced(self._name)


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        self._disk = disk
        super().__init__(name, "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> _File:
        return _File("", name, flags, self._disk)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._disk.on_step("delete")
        super().xDelete(filename, syncdir)
        file = self._disk.files.pop(filename, None)
        if file is not None and file.name_is_durable:
            self._disk.deleted[filename] = file
        if syncdir:
            self._disk.directory_synced()


@contextlib.contextmanager
def recording(disk: Disk) -> Iterator[str]:
    """The name of a VFS that records into ``disk``."""
    name = f"recording-{next(_numbers)}"
    vfs = _Vfs(name, disk)
    try:
        yield name
    finally:
        vfs.unregister()

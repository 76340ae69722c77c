"""URLs of stores, and the places where a file may not lie."""

from pathlib import Path

import pytest
from posthouse.store.interface import StoreUnusable
from posthouse.store.locks import own_open
from posthouse.store.memory import MemoryStore
from posthouse.store.opening import open_store, sqlite_path
from posthouse.store.sqlite import SqliteStore, files

MOUNTINFO = r"""22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /mnt/share rw - nfs4 server:/x rw
31 22 0:27 / /mnt/share/local rw - xfs /dev/sdb rw
32 22 0:28 / /mnt/with\040blank rw,nosuid shared:9 master:1 - cifs //server/x rw
33 22 0:29 / /home/me/remote rw - fuse.sshfs me@there: rw
34 22 0:30 / /home/me/fine rw - fuse.gocryptfs secret rw
35 22 0:31 / /mnt/share2 rw - tmpfs tmpfs rw
36 22 0:32 / /covered rw - nfs server:/y rw
37 36 0:33 / /covered rw - ext4 /dev/sdc rw
38 22 0:34 / /caf\303\251 rw - 9p host rw
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib/posthouse", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/deep/er", "nfs4"),
        ("/mnt/share/local/x", "xfs"),
        ("/mnt/share2", "tmpfs"),
        ("/mnt/with blank/x", "cifs"),
        ("/home/me/remote", "fuse.sshfs"),
        ("/covered/x", "ext4"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(directory: str, kind: str) -> None:
    assert files.file_system_of(Path(directory), MOUNTINFO) == kind


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("nfs", True),
        ("nfs4", True),
        ("cifs", True),
        ("9p", True),
        ("ceph", True),
        ("fuse.sshfs", True),
        ("fuse.glusterfs", True),
        ("fuse.gocryptfs", False),
        ("fuseblk", False),
        ("overlay", False),
        ("ext4", False),
        ("tmpfs", False),
    ],
)
def test_network_file_systems_are_known(kind: str, network: bool) -> None:
    assert files.is_network(kind) is network


def test_a_store_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"22 1 259:1 / / rw - ext4 /dev/root rw\n30 22 0:26 / {tmp_path} rw - nfs4 server:/x rw\n"
    )
    monkeypatch.setattr(files, "MOUNTS", mounts)
    with pytest.raises(StoreUnusable, match=r"network file system \(nfs4\)"):
        SqliteStore(tmp_path / "store.db").open_writer()
    assert not (tmp_path / "store.db").exists()


def test_without_a_table_of_mounts_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "none")
    SqliteStore(tmp_path / "store.db").open_writer().close()


def test_urls_name_stores() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)
    relative, absolute = open_store("sqlite:///a/b.db"), open_store("sqlite:////a/b%20c.db")
    assert isinstance(relative, SqliteStore) and isinstance(absolute, SqliteStore)
    assert relative.path == Path.cwd() / "a" / "b.db"
    assert absolute.path == Path("/a/b c.db")


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@host/db", "sqlite://x", "sqlite:x.db", "sqlite:///", "", "memory"]
)
def test_other_urls_are_refused_with_those_that_there_are(url: str) -> None:
    assert sqlite_path(url) is None
    with pytest.raises(
        StoreUnusable, match="memory:, sqlite:///relative/path, sqlite:////absolute/path and postgresql://"
    ) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(StoreUnusable) as caught:
        open_store("postgresql://me:secret@127.0.0.1:1/db").open_writer()
    assert "secret" not in str(caught.value)
    assert "postgresql://127.0.0.1:1/db" in str(caught.value)


def test_a_store_is_one_under_all_its_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    name = tmp_path / "name.db"
    name.symlink_to(tmp_path / "real" / "store.db")
    writer = SqliteStore(name).open_writer()
    assert own_open(tmp_path / "real" / "store.db") is None
    assert own_open(name) is None
    writer.close()
    assert not (tmp_path / "name.db-open").exists()


def test_only_its_owner_may_read_a_store(tmp_path: Path) -> None:
    writer = SqliteStore(tmp_path / "store.db").open_writer()
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    writer.close()

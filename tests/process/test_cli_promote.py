"""`posthouse promote`, and what `posthouse status` says of several members."""

from pathlib import Path

from command_line import posthouse
from members import members


def test_promote_hands_over_and_status_shows_it(tmp_path: Path) -> None:
    with members(tmp_path, own_control=False) as group:
        active, (one, _) = group.split()
        store = f"--store={group.store}"
        done = posthouse("promote", group.id_of(one), store)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{group.id_of(one)} is active, epoch 2")
        group.wait_whole()
        shown = posthouse("status", "--url", active.metrics_url).stdout
        assert f"name {group.id_of(one)}, role active, ready yes" in shown
        assert shown.count("role standby") == 2
        assert f"last_handover.from {group.id_of(active)}" in " ".join(shown.split())
        assert "last_handover.reason promote" in " ".join(shown.split())


def test_promote_says_why_not(tmp_path: Path) -> None:
    with members(tmp_path, 1, own_control=False) as group:
        store = f"--store={group.store}"
        refused = posthouse("promote", "nobody", store)
        assert refused.returncode == 1
        assert refused.stderr == (
            "posthouse: the relay says: no other member nobody is ready to take over; ready: none\n"
        )
    nobody = posthouse("promote", store)
    assert (nobody.returncode, nobody.stderr) == (1, "posthouse: no relay is known to run on this store\n")

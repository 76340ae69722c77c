"""Clusters that are not our own: one that KUBECONFIG names, or one by kind or k3d. They come first where they fit.

Which of them was taken is written down by `up`, and only that counts afterwards: tests never use a cluster merely
because the environment happens to name it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from testbed import places
from testbed.commands import ClusterError, run, succeeds

GIVEN = "given"
NAME = "posthouse"
CREATE_S = 600.0
_KIND = {
    "kind": "Cluster",
    "apiVersion": "kind.x-k8s.io/v1alpha4",
    "nodes": [{"role": "control-plane"}, {"role": "worker"}, {"role": "worker"}],
}
_LIST = {"kind": ["get", "clusters"], "k3d": ["cluster", "list"]}


def _record() -> Path:
    return places.run() / "chosen"


def chosen() -> str | None:
    """What `up` took: `given`, `kind` or `k3d`. None if there is no such cluster, or it is our own."""
    try:
        return _record().read_text()
    except OSError:
        return None


def fitting() -> str | None:
    """What `up` is to take on this machine; None if that is our own."""
    if os.environ.get("KUBECONFIG") not in (None, "", str(places.kubeconfig())):
        return GIVEN
    for name, question in _LIST.items():
        if shutil.which(name) and succeeds([name, *question]):
            return name
    return None


def create(name: str) -> None:
    """Take the given cluster, or make one. Raises ClusterError."""
    if places.programs().exists():
        raise ClusterError("a cluster of our own is up: take it down first")
    places.run().mkdir(parents=True, exist_ok=True)
    path = places.kubeconfig()
    path.unlink(missing_ok=True)
    if name == GIVEN:
        given = Path(os.environ["KUBECONFIG"]).absolute()
        if not given.is_file():
            raise ClusterError(f"KUBECONFIG: {given} is not a file")
        path.symlink_to(given)
    elif name == "kind":
        command = ["kind", "create", "cluster", "--name", NAME, "--kubeconfig", str(path), "--config", "-"]
        run(command, text=json.dumps(_KIND), timeout_s=CREATE_S)
    else:
        command = ["k3d", "cluster", "create", NAME, "--agents", "1", "--kubeconfig-update-default=false"]
        run([*command, "--wait"], timeout_s=CREATE_S)
        run(["k3d", "kubeconfig", "write", NAME, "--output", str(path)])
    _record().write_text(name)


def load(name: str, archive: Path) -> None:
    """Give an image archive to the nodes. Raises ClusterError."""
    if name == GIVEN:
        raise ClusterError("the cluster of KUBECONFIG must be given its images by hand")
    if name == "kind":
        run(["kind", "load", "image-archive", archive, "--name", NAME], timeout_s=CREATE_S)
    else:
        run(["k3d", "image", "import", archive, "--cluster", NAME], timeout_s=CREATE_S)


def delete(name: str) -> None:
    """Remove the cluster that was made; a given one is only forgotten. Raises ClusterError."""
    if name == "kind":
        run(["kind", "delete", "cluster", "--name", NAME], timeout_s=CREATE_S)
    elif name == "k3d":
        run(["k3d", "cluster", "delete", NAME], timeout_s=CREATE_S)
    places.kubeconfig().unlink(missing_ok=True)
    _record().unlink()

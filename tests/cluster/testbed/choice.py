"""Which cluster the tests get: the first that fits of a given one, kind, k3d, and our own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from testbed import places
from testbed.commands import run, succeeds

NAME = "posthouse"
CREATE_S = 600.0
_KIND = {
    "kind": "Cluster",
    "apiVersion": "kind.x-k8s.io/v1alpha4",
    "nodes": [{"role": "control-plane"}, {"role": "worker"}, {"role": "worker"}],
}


def given() -> Path | None:
    """The cluster that KUBECONFIG names, unless that is ours."""
    named = os.environ.get("KUBECONFIG")
    path = Path(named) if named else None
    return path if path is not None and path != places.kubeconfig() else None


def tool() -> str | None:
    """kind or k3d, if it is installed and has a container engine that works."""
    for name, asks in (("kind", "get"), ("k3d", "cluster")):
        question = [name, asks, "clusters" if name == "kind" else "list"]
        if shutil.which(name) and succeeds(question):
            return name
    return None


def with_tool() -> str | None:
    """The tool that the running cluster was made with; None if there is none, or it is ours."""
    try:
        return (places.run() / "tool").read_text()
    except OSError:
        return None


def create(name: str) -> bool:
    """Make a cluster with a tool; False if it is there already. Raises ClusterError."""
    if with_tool() == name and places.kubeconfig().exists():
        return False
    places.run().mkdir(parents=True, exist_ok=True)
    (places.run() / "tool").write_text(name)
    path = str(places.kubeconfig())
    if name == "kind":
        command = ["kind", "create", "cluster", "--name", NAME, "--kubeconfig", path, "--config", "-"]
        run(command, text=json.dumps(_KIND), timeout_s=CREATE_S)
    else:
        run(
            [
                "k3d",
                "cluster",
                "create",
                NAME,
                "--agents",
                "1",
                "--kubeconfig-update-default=false",
                "--wait",
            ],
            timeout_s=CREATE_S,
        )
        run(["k3d", "kubeconfig", "write", NAME, "--output", path])
    return True


def load(name: str, archive: Path) -> None:
    """Give an image archive to the nodes. Raises ClusterError."""
    if name == "kind":
        run(["kind", "load", "image-archive", archive, "--name", NAME], timeout_s=CREATE_S)
    else:
        run(["k3d", "image", "import", archive, "--cluster", NAME], timeout_s=CREATE_S)


def delete(name: str) -> None:
    """Remove the cluster. Raises ClusterError."""
    if name == "kind":
        run(["kind", "delete", "cluster", "--name", NAME], timeout_s=CREATE_S)
    else:
        run(["k3d", "cluster", "delete", NAME], timeout_s=CREATE_S)
    places.kubeconfig().unlink(missing_ok=True)
    (places.run() / "tool").unlink()

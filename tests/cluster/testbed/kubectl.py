"""kubectl as functions: what it prints, or ClusterError with what it complained about."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed import places
from testbed.commands import ClusterError, run

TIMEOUT_S = 60.0


def program() -> str:
    """The kubectl of the cluster that runs here, else the one that is installed. Raises ClusterError."""
    own = places.programs() / "kubectl"
    found = str(own) if own.exists() else shutil.which("kubectl")
    if found is None:
        raise ClusterError("kubectl is not installed")
    return found


@dataclass(frozen=True)
class Kubectl:
    """kubectl on one cluster, and in one namespace if one is given."""

    kubeconfig: Path
    namespace: str | None = None

    def within(self, namespace: str) -> Kubectl:
        """The same in a namespace."""
        return replace(self, namespace=namespace)

    def __call__(self, *words: str, text: str | None = None, timeout_s: float = TIMEOUT_S) -> str:
        """Any command."""
        where = ["--namespace", self.namespace] if self.namespace else []
        command = [program(), "--kubeconfig", str(self.kubeconfig), *where, *words]
        return run(command, text=text, timeout_s=timeout_s)

    def get(self, kind: str, name: str | None = None, selector: str | None = None) -> Any:
        """An object, or the list of objects if no name is given."""
        which = [name] if name else []
        chosen = ["--selector", selector] if selector else []
        found = json.loads(self("get", kind, *which, *chosen, "--output", "json"))
        return found if name else found["items"]

    def get_all(self, kind: str) -> Any:
        """The objects of all namespaces."""
        return json.loads(self("get", kind, "--all-namespaces", "--output", "json"))["items"]

    def apply(self, manifest: str | Path) -> str:
        """Apply a manifest: its text, or the file or folder that holds it."""
        if isinstance(manifest, Path):
            return self("apply", "--filename", str(manifest))
        return self("apply", "--filename", "-", text=manifest)

    def delete(self, kind: str, name: str, grace_s: int | None = None, wait: bool = True) -> str:
        """Delete an object, which may be gone already."""
        grace = [] if grace_s is None else [f"--grace-period={grace_s}"]
        return self("delete", kind, name, "--ignore-not-found", f"--wait={str(wait).lower()}", *grace)

    def wait_for(self, condition: str, *targets: str, timeout_s: float = TIMEOUT_S) -> str:
        """Wait for `condition=Ready`, `delete`, `jsonpath=…`, of targets such as `pod/a` or `pod`, `--selector=…`."""
        words = ["wait", f"--for={condition}", f"--timeout={timeout_s:g}s", *targets]
        return self(*words, timeout_s=timeout_s + 10)

    def logs(self, pod: str, container: str | None = None, previous: bool = False) -> str:
        """What a container wrote, or the one before its last restart."""
        which = ["--container", container] if container else ["--all-containers"]
        return self("logs", pod, *which, f"--previous={str(previous).lower()}")

    def exec(self, pod: str, *command: str, container: str | None = None, text: str | None = None) -> str:
        """What a command in a container prints."""
        which = ["--container", container] if container else []
        interactive = ["--stdin"] if text is not None else []
        return self("exec", pod, *which, *interactive, "--", *command, text=text)

    def events(self) -> Any:
        """The events, oldest first."""
        found = json.loads(self("get", "events", "--sort-by=.metadata.creationTimestamp", "--output", "json"))
        return found["items"]

    def rollout(self, action: str, target: str, timeout_s: float = TIMEOUT_S) -> str:
        """`restart`, `status` (which waits) or `undo`, of `deployment/a`, `statefulset/a`, `daemonset/a`."""
        limit = [f"--timeout={timeout_s:g}s"] if action == "status" else []
        return self("rollout", action, target, *limit, timeout_s=timeout_s + 10)

    def drain(self, node: str, timeout_s: float = TIMEOUT_S) -> str:
        """Evict all pods of a node but those of daemon sets, and wait until they have ended."""
        how = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={timeout_s:g}s"]
        return self("drain", node, *how, timeout_s=timeout_s + 10)

    def uncordon(self, node: str) -> str:
        """Let pods be scheduled to a node again."""
        return self("uncordon", node)

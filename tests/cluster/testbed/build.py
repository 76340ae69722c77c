"""Kubernetes, etcd and CoreDNS compiled from Go modules, some minutes the first time, then taken from the cache.

`go/*/go.mod` names every version, once; the modules have no code of their own. What is built is kept by a digest of
those files and of the flags, and appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

from testbed import places
from testbed.commands import ClusterError, run

SOURCES = Path(__file__).parent / "go"
PROGRAMS = {
    "kube-apiserver": ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubelet": ("kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    "kube-proxy": ("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
    "kubectl": ("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    "etcd": ("kubernetes", "go.etcd.io/etcd/server/v3"),
    "coredns": ("coredns", "github.com/coredns/coredns"),
}
FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
COMPILE_S = 3600.0


def _file(module: str, name: str) -> Path:
    return SOURCES / module / name


def kubernetes_version() -> str:
    """Without the leading v, as go.mod names it. Raises ClusterError."""
    found = re.search(r"k8s\.io/kubernetes v(\d+\.\d+\.\d+)", _file("kubernetes", "go.mod").read_text())
    if found is None:
        raise ClusterError("go.mod names no version of k8s.io/kubernetes")
    return found[1]


def _linker_flags() -> str:
    """Without a version the API server calls itself v0.0.0-master, and charts that ask for one refuse it."""
    version = kubernetes_version()
    major, minor, _ = version.split(".")
    variables = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    words = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in variables.items()]
    return " ".join(["-s -w", *words])


def digest() -> str:
    """Of all that decides what comes out."""
    found = hashlib.sha256()
    for module in sorted({module for module, _ in PROGRAMS.values()}):
        for name in ("go.mod", "go.sum"):
            found.update(_file(module, name).read_bytes())
    found.update(repr((sorted(PROGRAMS.items()), FLAGS, _linker_flags(), platform.machine())).encode())
    return found.hexdigest()[:16]


def programs() -> Path:
    """The folder with all programs; they are built first if they are not there. Raises ClusterError."""
    folder = places.cache() / digest()
    if folder.is_dir():
        return folder
    if shutil.which("go") is None:
        raise ClusterError("no go here: Go 1.25 or newer is needed (from 1.21 on it fetches that by itself)")
    places.cache().mkdir(parents=True, exist_ok=True)
    # Some systems forbid Go to fetch the newer one that go.mod asks for, unless the environment says so.
    environment = {"GOTOOLCHAIN": "auto", **os.environ, "CGO_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="build-", dir=places.cache()) as temporary:
        made = Path(temporary) / "bin"
        for name, (module, package) in PROGRAMS.items():
            print(f"testbed: compiling {name}", file=sys.stderr, flush=True)
            flags = [*FLAGS, "-ldflags", _linker_flags(), "-o", str(made / name)]
            command = ["go", "build", *flags, package]
            run(command, cwd=SOURCES / module, environment=environment, timeout_s=COMPILE_S)
        made.rename(folder)
    return folder

"""Local volumes, a few a node. Such a volume pins its pods to its node, as a cloud's disk pins them to a zone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from testbed import places
from testbed.kubectl import Kubectl
from testbed.places import NODES, Node

A_NODE = 4
STORAGE_CLASS = "local"
SIZE = "10Gi"


def folder(name: str) -> Path:
    """Where the files of a volume are."""
    return places.run() / "volumes" / name


def _volume(node: Node, number: int) -> dict[str, object]:
    name = f"{node.name}-{number}"
    place = folder(name)
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o777)
    there = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(place)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [there]}]}},
        },
    }


def make(kubectl: Kubectl) -> None:
    """Make the volumes, and a default class of storage for them."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": default},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    items = [storage_class, *(_volume(node, 1 + number) for node in NODES for number in range(A_NODE))]
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def free(kubectl: Kubectl) -> None:
    """Empty each volume whose claim is gone, and offer it again."""
    claims = {claim["metadata"]["uid"] for claim in kubectl.get_all("persistentvolumeclaims")}
    for volume in kubectl.get("persistentvolumes"):
        claim = volume["spec"].get("claimRef")
        if volume["spec"].get("storageClassName") != STORAGE_CLASS or not claim or claim.get("uid") in claims:
            continue
        name = volume["metadata"]["name"]
        # Kubernetes takes a moment to notice that the claim is gone.
        kubectl.wait_for("jsonpath={.status.phase}=Released", f"persistentvolume/{name}")
        for entry in folder(name).iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        kubectl("patch", "persistentvolume", name, "--type=merge", "--patch", '{"spec":{"claimRef":null}}')
        kubectl.wait_for("jsonpath={.status.phase}=Available", f"persistentvolume/{name}")

"""The manifests in `examples/kubernetes`: they fit each other, the settings of the relay, and what a stop may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from posthouse.config import Config, load
from posthouse.config.sections import HAND_OVER_PATIENCE_S, PARTING_PATIENCE_S
from posthouse.server import relay
from posthouse.server.cluster import cluster, leasing, membership

FOLDER: Final = Path(__file__).parents[2] / "examples" / "kubernetes"
STORES: Final = ("sqlite", "postgresql")
SAMPLES: Final = {
    "metadata.name": "posthouse-6f7-abcde",
    "metadata.uid": "2f0c9a4e-0000-4000-8000-000000000000",
    "metadata.namespace": "relays",
    "status.podIP": "10.1.2.3",
}
"""What the downward API may tell."""
SECRETS: Final = {("posthouse-store", "uri"): "postgresql://relay:secret@db/posthouse"}
LABEL: Final = {"app.kubernetes.io/name": "posthouse"}

Object = dict[str, Any]
Objects = dict[tuple[str, str], Object]


def objects(name: str) -> Objects:
    """The objects of a file, by kind and name."""
    found = list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(by_name) == len(found), "one object hides another"
    return by_name


@pytest.fixture(scope="module")
def common() -> Objects:
    return objects("common")


@pytest.fixture(params=STORES)
def example(request: pytest.FixtureRequest) -> Objects:
    return objects(request.param)


def pod_of(example: Objects) -> Object:
    """What the Deployment's pods are to be."""
    spec: Object = example["Deployment", "posthouse"]["spec"]["template"]["spec"]
    return spec


def container_of(example: Objects) -> Object:
    (container,) = pod_of(example)["containers"]
    found: Object = container
    return found


def environment(container: Object) -> dict[str, str]:
    """As the kubelet would make it."""
    found: dict[str, str] = {}
    for one in container["env"]:
        source = one.get("valueFrom", {})
        if "fieldRef" in source:
            found[one["name"]] = SAMPLES[source["fieldRef"]["fieldPath"]]
        elif "secretKeyRef" in source:
            secret = source["secretKeyRef"]
            found[one["name"]] = SECRETS[secret["name"], secret["key"]]
        else:
            found[one["name"]] = one["value"]
    return found


def config_of(example: Objects, folder: Path) -> Config:
    """What a relay in such a pod would make of it, with the ConfigMap's file where it is mounted."""
    environ = environment(container_of(example))
    mounts = {one["mountPath"]: one["name"] for one in container_of(example)["volumeMounts"]}
    path = Path(environ.pop("POSTHOUSE_CONFIG"))
    volumes = {one["name"]: one for one in pod_of(example)["volumes"]}
    source = volumes[mounts[str(path.parent)]]["configMap"]["name"]
    written = folder / path.name
    written.write_text(example["ConfigMap", source]["data"][path.name])
    return load(written, environ=environ)


def test_the_settings_load_and_make_a_member_in_a_pod(example: Objects, tmp_path: Path) -> None:
    config = config_of(example, tmp_path)
    assert config.lease_kind == "kubernetes"
    assert config.pod.name == SAMPLES["metadata.name"]
    assert config.pod.uid == SAMPLES["metadata.uid"]
    assert config.pod.namespace == SAMPLES["metadata.namespace"]
    assert config.pod.ip == SAMPLES["status.podIP"]
    assert config.pod.container == container_of(example)["name"]


def test_clients_are_welcome_under_the_name_of_their_service(
    example: Objects, common: Objects, tmp_path: Path
) -> None:
    (port,) = common["Service", "posthouse"]["spec"]["ports"]
    assert f"posthouse:{port['port']}" in config_of(example, tmp_path).server.public_names


def test_each_store_is_where_the_relay_may_write(tmp_path: Path) -> None:
    sqlite, postgresql = objects("sqlite"), objects("postgresql")
    path = config_of(sqlite, tmp_path).sqlite_path
    assert path is not None
    mounts = {one["mountPath"]: one["name"] for one in container_of(sqlite)["volumeMounts"]}
    volumes = {one["name"]: one for one in pod_of(sqlite)["volumes"]}
    claim = volumes[mounts[str(path.parent)]]["persistentVolumeClaim"]["claimName"]
    assert ("PersistentVolumeClaim", claim) in sqlite
    assert config_of(postgresql, tmp_path).store.url == SECRETS["posthouse-store", "uri"]


def test_the_control_socket_and_the_certificates_lie_in_mounted_folders(
    example: Objects, tmp_path: Path
) -> None:
    config = config_of(example, tmp_path)
    mounts = {one["mountPath"]: one for one in container_of(example)["volumeMounts"]}
    assert not mounts[str(Path(config.server.control_socket).parent)].get("readOnly")
    for file in filter(None, (config.peer.tls_cert, config.peer.tls_key, config.peer.tls_ca)):
        volume = next(
            one for one in pod_of(example)["volumes"] if one["name"] == mounts[str(Path(file).parent)]["name"]
        )
        assert volume["secret"]["secretName"] == "posthouse-peer"


def test_ports_agree(example: Objects, common: Objects, tmp_path: Path) -> None:
    config = config_of(example, tmp_path)
    container = container_of(example)
    named = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert named == {
        "relay": port_of(config.server.listen),
        "peer": leasing.DEFAULT_PORT,
        "metrics": port_of(config.server.metrics_listen),
    }
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"
    for service in ("posthouse", "posthouse-members"):
        for port in common["Service", service]["spec"]["ports"]:
            assert port["port"] == named[port["targetPort"]]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_a_process_that_hangs_is_killed_without_its_grace(example: Objects) -> None:
    container, pod = container_of(example), pod_of(example)
    liveness = container["livenessProbe"]
    assert liveness["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert liveness["periodSeconds"] * liveness["failureThreshold"] == 3
    assert liveness["terminationGracePeriodSeconds"] == 1 < pod["terminationGracePeriodSeconds"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_pod_has_the_time_that_its_longest_stop_takes(example: Objects, tmp_path: Path) -> None:
    config = config_of(example, tmp_path)
    grace_s = pod_of(example)["terminationGracePeriodSeconds"]
    assert config.longest_stop_s <= grace_s < config.longest_stop_s + 10


def test_the_longest_stop_is_the_sum_of_what_its_steps_wait_for(tmp_path: Path) -> None:
    assert relay.STORE_PATIENCE_S == cluster.STORE_PATIENCE_S
    assert (
        sum((cluster.STORE_PATIENCE_S, membership.WRITER_PATIENCE_S, cluster.SUCCESSOR_S))
        == HAND_OVER_PATIENCE_S
    )
    assert sum((relay.PEERS_PATIENCE_S, cluster.ACKS_S, relay.CLOSE_PATIENCE_S)) == PARTING_PATIENCE_S
    file = tmp_path / "relay.toml"
    file.write_text("[server]\nlinger_s = 3\ndrain_s = 4\n[store]\ncommit_timeout_s = 20\n")
    assert load(file, environ={}).longest_stop_s == 20 + 3 + 4.5 + 4 + 9
    file.write_text("[server]\nlinger_s = 60\ndrain_s = 4\n")
    assert load(file, environ={}).longest_stop_s == 60 + 4 + 9


def test_new_connections_are_taken_while_services_follow(example: Objects, tmp_path: Path) -> None:
    assert config_of(example, tmp_path).server.linger_s >= 1


def test_the_role_is_for_the_relays_own_lease(example: Objects, common: Objects, tmp_path: Path) -> None:
    rules = common["Role", "posthouse"]["rules"]
    named = [one["resourceNames"] for one in rules if "resourceNames" in one]
    assert named == [[config_of(example, tmp_path).lease.name]]
    binding = common["RoleBinding", "posthouse"]
    assert binding["roleRef"]["name"] == "posthouse"
    (subject,) = binding["subjects"]
    assert ("ServiceAccount", subject["name"]) in common
    assert pod_of(example)["serviceAccountName"] == subject["name"]


def test_labels_and_selectors_agree(example: Objects, common: Objects) -> None:
    deployment = example["Deployment", "posthouse"]["spec"]
    assert deployment["template"]["metadata"]["labels"] == LABEL
    selectors = [deployment["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"] for (kind, _), one in common.items() if kind == "Service"]
    selectors += [
        one["spec"]["selector"]["matchLabels"]
        for (kind, _), one in example.items()
        if kind == "PodDisruptionBudget"
    ]
    selectors += [one["labelSelector"]["matchLabels"] for one in terms(pod_of(example))]
    assert selectors == [LABEL] * len(selectors)


def terms(pod: Object) -> list[Object]:
    """What says where pods are to be in respect of each other."""
    affinity = pod.get("affinity", {}).get("podAffinity", {})
    found: list[Object] = [
        *affinity.get("requiredDuringSchedulingIgnoredDuringExecution", []),
        *pod.get("topologySpreadConstraints", []),
    ]
    assert found, "members stand together or apart, not anywhere"
    return found


def test_the_examples_differ_only_where_they_have_to() -> None:
    sqlite, postgresql = pod_of(objects("sqlite")), pod_of(objects("postgresql"))
    placing = {"affinity", "topologySpreadConstraints", "tolerations"}
    held = {"containers", "volumes", "securityContext"}
    assert without(sqlite, placing | held) == without(postgresql, placing | held)
    # Only a volume can be large enough that its owner is not to be set file by file.
    assert without(sqlite["securityContext"], {"fsGroupChangePolicy"}) == postgresql["securityContext"]
    (one,), (other,) = sqlite["containers"], postgresql["containers"]
    assert without(one, {"env", "volumeMounts"}) == without(other, {"env", "volumeMounts"})
    assert one["image"] == other["image"]
    assert [item for item in other["env"] if item not in one["env"]] == [
        {
            "name": "POSTHOUSE_STORE_URL",
            "valueFrom": {"secretKeyRef": {"name": "posthouse-store", "key": "uri"}},
        }
    ]
    assert [item for item in one["env"] if item not in other["env"]] == []
    for key in ("volumeMounts", "volumes"):
        mine, theirs = (
            part[key] for part in ((one, other) if key == "volumeMounts" else (sqlite, postgresql))
        )
        assert {item["name"] for item in mine if item not in theirs} == {"store"}
        assert {item["name"] for item in theirs if item not in mine} == {"peer"}


def without(part: Object, keys: set[str]) -> Object:
    return {key: value for key, value in part.items() if key not in keys}


def test_what_is_promised_of_the_pod_is_said_in_it(example: Objects) -> None:
    """The profile `restricted` of Kubernetes' pod security standards."""
    pod, container = pod_of(example), container_of(example)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }

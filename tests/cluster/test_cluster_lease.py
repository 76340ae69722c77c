"""The Lease of a real API server, of which the unit tests have a copy: what the election needs of it is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from cluster_fixtures import Namespace
from kubernetes.aio import client, config
from msgspec.structs import replace
from posthouse.single_active.leases.interface import Container, LeaseConflict, LeaseUnavailable, Record
from posthouse.single_active.leases.kubernetes import KubernetesLease

WAIT_S = 20.0
OWN = Container("pod-1", "uid-1", "containerd://1")


@asynccontextmanager
async def opened(
    namespace: Namespace, name: str = "relay", silence_s: float = WAIT_S
) -> AsyncIterator[KubernetesLease]:
    settings = client.Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        str(namespace.kubectl.kubeconfig), client_configuration=settings, persist_config=False
    )
    async with client.ApiClient(settings) as api:
        yield KubernetesLease(
            api, namespace.name, name, container=OWN, silence_s=silence_s, notes=lambda: {"epoch": "7"}
        )


def record(stamp: int, **changes: Any) -> Record:
    return replace(Record("pod-1.a", stamp, 1, 5.0, "10.0.0.1:8081"), **changes)


async def test_only_the_expected_version_is_replaced(namespace: Namespace) -> None:
    async with opened(namespace) as lease:
        assert await lease.read() is None
        first = await lease.write(record(1), None)
        with pytest.raises(LeaseConflict):
            await lease.write(record(2), None)
        second = await lease.write(record(2), first.version)
        with pytest.raises(LeaseConflict):
            await lease.write(record(3), first.version)
        assert await lease.read() == second
        assert replace(second, version="") == record(2, container=OWN)


async def test_a_version_does_not_come_back_with_another_object_of_the_name(namespace: Namespace) -> None:
    async with opened(namespace) as lease:
        first = await lease.write(record(1), None)
        namespace.kubectl.delete("lease", "relay")
        with pytest.raises(LeaseConflict):
            await lease.write(record(2), first.version)
        again = await lease.write(record(3), None)
        uid = first.version.partition("/")[0]
        with pytest.raises((LeaseConflict, LeaseUnavailable)):
            await lease.write(record(4), f"{uid}/{again.version.partition('/')[2]}")
        assert await lease.read() == again


async def test_what_others_have_set_is_kept(namespace: Namespace) -> None:
    async with opened(namespace) as lease:
        first = await lease.write(record(1, successor="pod-2.b", released=True), None)
        namespace.kubectl("label", "lease", "relay", "team=post")
        namespace.kubectl("annotate", "lease", "relay", "example.com/note=theirs")
        with pytest.raises(LeaseConflict):  # their change is one too
            await lease.write(record(2), first.version)
        found = await lease.read()
        assert found is not None
        assert found.released and found.holder == "pod-1.a" and found.successor == "pod-2.b"
        await lease.write(record(2), found.version)
        held = namespace.kubectl.get("lease", "relay")
        assert held["metadata"]["labels"] == {"team": "post"}
        assert held["metadata"]["annotations"] == {
            "example.com/note": "theirs",
            "posthouse.dev/address": "10.0.0.1:8081",
            "posthouse.dev/container-id": "containerd://1",
            "posthouse.dev/epoch": "7",
            "posthouse.dev/pod": "pod-1",
            "posthouse.dev/stamp": "2",
        }
        assert held["spec"]["holderIdentity"] == "pod-1.a_uid-1"
        assert held["spec"]["leaseDurationSeconds"] == 5


async def test_the_watch_tells_of_every_change_and_of_a_deletion(namespace: Namespace) -> None:
    async with opened(namespace) as lease, opened(namespace) as others:
        first = await lease.write(record(1), None)
        async with aclosing(others.watch()) as seen, asyncio.timeout(WAIT_S):
            assert await anext(seen) == first
            second = await lease.write(record(2), first.version)
            assert await anext(seen) == second
            namespace.kubectl.delete("lease", "relay")
            assert await anext(seen) is None
            third = await lease.write(record(3), None)
            assert await anext(seen) == third


async def test_a_watch_that_says_nothing_is_given_up(namespace: Namespace) -> None:
    async with opened(namespace, silence_s=0.5) as lease, aclosing(lease.watch()) as seen:
        with pytest.raises(LeaseUnavailable, match="nothing is heard"):
            await anext(seen)


async def test_an_account_without_the_right_is_told_so(namespace: Namespace) -> None:
    namespace.kubectl("create", "serviceaccount", "stranger")
    token = namespace.kubectl("create", "token", "stranger").strip()
    async with opened(namespace) as lease:
        lease._api.api_client.configuration.api_key["BearerToken"] = f"Bearer {token}"
        with pytest.raises(LeaseUnavailable, match=r"403 .*cannot get resource"):
            await lease.read()

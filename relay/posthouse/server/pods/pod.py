"""What a member has of the cluster that its pod is in, behind one object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Self

from kubernetes.aio import client
from msgspec.structs import replace

from posthouse.config import Config
from posthouse.server.news import News
from posthouse.server.pods.api import NoCluster, connect, own_namespace
from posthouse.server.pods.containers import Containers
from posthouse.server.pods.events import Events
from posthouse.single_active.leases.interface import Container
from posthouse.single_active.leases.kubernetes import KubernetesLease

__all__ = ["NoCluster", "Pod"]


class Pod:
    """This member's pod: made by ``join``, ended by ``close``."""

    def __init__(
        self, api: client.ApiClient, config: Config, namespace: str, notes: Callable[[], Mapping[str, str]]
    ) -> None:
        """``notes``: what the Lease is to say of the active member besides, by annotation.

        ``api`` is closed with this.
        """
        pod = config.pod
        self._api = api
        self._containers = Containers(api, namespace)
        self._events = Events(api, namespace, pod.name, pod.uid) if pod.name else None
        self.lease = KubernetesLease(
            api,
            namespace,
            config.lease.name,
            container=Container(pod.name, pod.uid, ""),
            silence_s=config.lease.duration_s,
            notes=notes,
        )
        self._learning = (
            asyncio.create_task(self._learn_container(pod.name, pod.container)) if pod.uid else None
        )

    @classmethod
    async def join(cls, config: Config, notes: Callable[[], Mapping[str, str]]) -> Self:
        """Find the cluster; nothing is asked of it yet. Raises NoCluster."""
        namespace = config.pod.namespace or own_namespace()
        return cls(await connect(), config, namespace, notes)

    def tell(self, news: News) -> None:
        """Make an event of it."""
        if self._events is not None:
            self._events.tell(news)

    def look_after(self, container: Container, for_s: float, on_ended: Callable[[], None]) -> None:
        """See for so long whether that container has ended."""
        self._containers.look_after(container, for_s, on_ended)

    def look_no_more(self) -> None:
        """It does not matter any more."""
        self._containers.stop()

    async def close(self) -> None:
        """Tell the last news, and end all connections."""
        self._containers.stop()
        if self._learning is not None:
            self._learning.cancel()
        if self._events is not None:
            await self._events.close()
        await self._api.close()  # type: ignore[no-untyped-call]

    async def _learn_container(self, pod: str, name: str) -> None:
        found = await self._containers.own_id(pod, name)
        self.lease.container = replace(self.lease.container, id=found)

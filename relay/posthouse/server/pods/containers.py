"""Which run of a container this process is, and whether that of another member has ended.

A container that has ended, of the same pod and with the same id, is a proof of death: its process is no more, and no
other will have the id. That a pod is not found proves nothing: it may have been removed by force, from a node that
nobody reaches.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

import msgspec
import structlog
from kubernetes.aio import client
from msgspec import Struct

from posthouse.server.pods.api import Refused, Response, answer
from posthouse.single_active.leases.interface import Container
from posthouse.single_active.leases.processes import start_ticks

EARLIER_S: Final = 1.1
LATER_S: Final = 2.0
"""By how much the container that we take for ours may have begun before our process and after it: what a pod shows is
cut to whole seconds, and a process is made before its container is said to run. The one before a quick restart is
earlier."""
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
LOOK_S: Final = 0.2
REQUEST_S: Final = 1.0
_log = structlog.get_logger()


class _Running(Struct, rename="camel"):
    started_at: datetime


class _Terminated(Struct, rename="camel"):
    container_id: str = msgspec.field(name="containerID", default="")


class _State(Struct):
    running: _Running | None = None
    terminated: _Terminated | None = None


class _Container(Struct, rename="camel"):
    name: str
    container_id: str = msgspec.field(name="containerID", default="")
    state: _State = msgspec.field(default_factory=_State)
    last_state: _State = msgspec.field(default_factory=_State)


class _Status(Struct, rename="camel"):
    container_statuses: list[_Container] = []


class _Metadata(Struct):
    uid: str = ""


class PodObject(Struct):
    """A pod, as far as it is read."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    status: _Status = msgspec.field(default_factory=_Status)

    def running_id(self, name: str, started: float) -> str:
        """Id of the container of this name that began at about this time (Unix seconds); empty if not yet shown."""
        for one in self.status.container_statuses:
            running = one.state.running
            if one.name != name or running is None:
                continue
            if -EARLIER_S <= running.started_at.timestamp() - started <= LATER_S:
                return one.container_id
        return ""

    def has_ended(self, container: Container) -> bool:
        """Whether that container is shown as ended."""
        if self.metadata.uid != container.uid:
            return False
        states = [state for one in self.status.container_statuses for state in (one.state, one.last_state)]
        return any(
            state.terminated is not None and state.terminated.container_id == container.id for state in states
        )


class Containers:
    """Asks for pods of one namespace."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        """``api`` is closed by the one who made it."""
        self._api = api
        self._namespace = namespace
        self._looking: asyncio.Task[None] | None = None

    async def own_id(self, pod: str, name: str) -> str:
        """Id of the container that this process runs in, as soon as the cluster shows it."""
        started = process_start()
        pause_s = FIRST_PAUSE_S
        told = ""
        while True:
            try:
                found = (await self._pod(pod)).running_id(name, started)
                if found:
                    return found
            except Refused as refused:
                if told != (told := str(refused)):  # what stays is logged once
                    _log.warning("the own pod cannot be read", pod=pod, reason=told)
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def look_after(self, container: Container, for_s: float, on_ended: Callable[[], None]) -> None:
        """See for so long whether it has ended, in place of what was looked after before."""
        self.stop()
        if container.id:
            self._looking = asyncio.get_running_loop().create_task(self._look(container, for_s, on_ended))

    def stop(self) -> None:
        """Look after nothing."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self, container: Container, for_s: float, on_ended: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + for_s
        while loop.time() < end:
            try:
                pod = await self._pod(container.pod)
                if pod.has_ended(container):
                    _log.warning("the active member's container has ended", pod=container.pod)
                    on_ended()
                    return
                if pod.metadata.uid != container.uid:
                    _log.info("the active member's pod is another one now", pod=container.pod)
                    return
            except Refused as refused:
                if not (refused.passing or refused.of_rights):  # there is no such pod
                    _log.info("the active member's pod tells nothing", pod=container.pod, reason=str(refused))
                    return
            await asyncio.sleep(LOOK_S)

    async def _pod(self, name: str) -> PodObject:
        return await answer(self._get(f"/api/v1/namespaces/{self._namespace}/pods/{name}"), PodObject)

    async def _get(self, path: str) -> Response:
        # Not by CoreV1Api: to make that class alone takes most of a second and 25 MiB.
        request = await self._api.param_serialize("GET", path, auth_settings=["BearerToken"])
        return await self._api.call_api(*request, _request_timeout=REQUEST_S)


def process_start() -> float:
    """When this process began, in Unix seconds; now, if the system does not tell."""
    ticks = start_ticks(os.getpid())
    if ticks is None:
        return time.time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))

"""A lease of the cluster: an object of coordination.k8s.io/v1, changed by patches that name the version they replace.

A patch touches nothing but what is ours (`kubernetes_content.py`), so that labels and owners that others set are kept.
Somebody else's change of the object is a new version of it too: followers wait a little longer, and the holder, whose
next renewal is refused, reads and finds itself.

The watch is told of every renewal. One of which nothing was heard for a while is taken for dead, although its
connection may look well (a node that was cut off, an API server that hangs), and the runner makes another.

Source: https://kubernetes.io/docs/concepts/architecture/leases/; the conventions are those of client-go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import msgspec
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from msgspec import Struct

from posthouse.single_active.leases.interface import Container, LeaseConflict, LeaseUnavailable, Record
from posthouse.single_active.leases.kubernetes_content import (
    Lease,
    patch_of,
    record_of,
    time_text,
    without_none,
)

MANAGER: Final = "posthouse"
"""Of the fields that are written, as ``managedFields`` has it."""
MERGE_PATCH: Final = "application/merge-patch+json"
GONE: Final = (404, 410)
WATCH_S: Final = 86_400.0
"""A watch is made anew after so long; the client's own limit for a request is minutes."""
CONFLICT: Final = 409
UNHEARD: Final = "nothing is heard of the API server"


class KubernetesLease:
    """The Lease of one name in one namespace."""

    def __init__(
        self,
        api: client.ApiClient,
        namespace: str,
        name: str,
        *,
        container: Container,
        silence_s: float,
        notes: Callable[[], Mapping[str, str]],
    ) -> None:
        """``silence_s``: a watch of which nothing is heard for so long is dead; longer than from renewal to renewal.

        ``notes``: what the holder says of itself besides, by annotation; asked with every claim and renewal. ``api`` is
        closed by the one who made it.
        """
        self.container = container
        """Ours, written with what we write: its pod's UID is part of the holder's identity, its id may follow later."""
        self._api = client.CoordinationV1Api(api)
        self._namespace = namespace
        self._name = name
        self._silence_s = silence_s
        self._notes = notes
        self._acquired = (0, "")
        """Transitions of our claim, and when it was."""

    async def read(self) -> Record | None:
        """The record as it is now. Raises LeaseUnavailable."""
        call = self._api.read_namespaced_lease_without_preload_content
        try:
            return await _answer(call(self._name, self._namespace))
        except _Missing:
            return None

    async def write(self, record: Record, expected: str | None) -> Record:
        """Replace the record. Raises LeaseConflict, LeaseUnavailable."""
        body: Any = self._body(record)
        if expected is None:
            body["metadata"]["name"] = self._name
            new: Any = without_none(body)
            create = self._api.create_namespaced_lease_without_preload_content
            writing = create(self._namespace, new, field_manager=MANAGER)
        else:
            uid, _, version = expected.partition("/")
            body["metadata"] |= {"uid": uid, "resourceVersion": version}
            patch = self._api.patch_namespaced_lease_without_preload_content
            writing = patch(
                self._name, self._namespace, body, field_manager=MANAGER, _content_type=MERGE_PATCH
            )
        try:
            return await _answer(writing)
        except _Missing as missing:
            if expected is None:  # it is the namespace that is missing
                raise LeaseUnavailable(str(missing)) from None
            raise LeaseConflict(f"there is no lease {self._name} any more") from None

    async def watch(self) -> AsyncGenerator[Record | None, None]:
        """Records as they change, the present one first. Raises LeaseUnavailable when it breaks or says nothing."""
        watching = self._api.list_namespaced_lease_without_preload_content(
            self._namespace,
            field_selector=f"metadata.name={self._name}",
            watch=True,
            allow_watch_bookmarks=True,
            _request_timeout=WATCH_S,
        )
        try:
            async with asyncio.timeout(self._silence_s):
                response = await _accepted(watching)
        except TimeoutError:
            raise LeaseUnavailable(UNHEARD) from None
        except _Missing as missing:
            raise LeaseUnavailable(str(missing)) from None
        try:
            while True:
                event = await self._next_event(response)
                if event.type != "BOOKMARK":
                    yield None if event.type == "DELETED" else record_of(_lease_in(event))
        finally:
            response.close()

    async def close(self) -> None:
        """Nothing is held open: connections are the API client's."""

    async def _next_event(self, response: aiohttp.ClientResponse) -> _Event:
        with _told_apart():
            async with asyncio.timeout(self._silence_s):
                line = await response.content.readline()
            if not line:
                raise LeaseUnavailable("the API server has ended the watch")
            return msgspec.json.decode(line, type=_Event)
        raise AssertionError("not reached")

    def _body(self, record: Record) -> dict[str, Any]:
        """What a write sets; None where a field or an annotation is to be removed."""
        now = time_text(datetime.now(UTC))
        if self._acquired[0] != record.transitions:
            self._acquired = (record.transitions, now)
        return patch_of(record, self.container, self._notes(), self._acquired[1], now)


class _Status(Struct):
    """Why something was not done."""

    code: int = 0
    message: str = ""


class _Event(Struct):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class _Missing(Exception):
    """There is no such object."""


async def _answer(call: Awaitable[aiohttp.ClientResponse]) -> Record:
    """The record in an answer. Raises _Missing, LeaseConflict, LeaseUnavailable."""
    response = await _accepted(call)
    with _told_apart():
        return record_of(msgspec.json.decode(await response.read(), type=Lease))
    raise AssertionError("not reached")


async def _accepted(call: Awaitable[aiohttp.ClientResponse]) -> aiohttp.ClientResponse:
    """An answer that is not a refusal. Raises _Missing, LeaseConflict, LeaseUnavailable."""
    with _told_apart():
        response = await call
        if response.status >= 300:
            body = await response.read()
            raise ApiException(response.status, response.reason, body=body.decode(errors="replace"))
        return response
    raise AssertionError("not reached")


def _lease_in(event: _Event) -> Lease:
    """The Lease that a watch tells of. Raises LeaseUnavailable, also for an event that says why the watch ends."""
    with _told_apart():
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            raise LeaseUnavailable(f"{status.code} {status.message}")
        return msgspec.json.decode(event.object, type=Lease)
    raise AssertionError("not reached")


@contextmanager
def _told_apart() -> Iterator[None]:
    """Make of what the client library raises what a lease raises."""
    try:
        yield
    except ApiException as error:
        said = f"{error.status} {_message(error)}"
        if error.status in GONE:
            raise _Missing(said) from None
        if error.status == CONFLICT:
            raise LeaseConflict(said) from None
        raise LeaseUnavailable(said) from None
    except TimeoutError:
        raise LeaseUnavailable(UNHEARD) from None
    except (aiohttp.ClientError, OSError) as error:
        raise LeaseUnavailable(str(error) or type(error).__name__) from None
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        raise LeaseUnavailable(f"the lease cannot be understood: {error}") from None


def _message(error: ApiException) -> str:
    try:
        return str(msgspec.json.decode(error.body or "")["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return str(error.reason)

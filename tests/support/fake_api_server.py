"""A small API server: Leases, pods and events as far as members use them, over HTTP, with faults to switch on.

What it answers is what a real one (1.35) answers to the same requests: versions of one rising counter, a UID for each
object, merge patches with preconditions on both, a patch that changes nothing makes no version, watches that begin with
what is there. Faults are set as attributes; what also changes connections is a method.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from kubernetes.aio import client

Json = dict[str, Any]
NAMESPACE: Final = "relays"
LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
PODS: Final = "/api/v1/namespaces/{namespace}/pods"
EVENTS: Final = "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
REASONS: Final = {404: "NotFound", 409: "Conflict", 422: "Invalid"}


class FakeApiServer:
    """One server with one namespace. To be used on its own event loop."""

    def __init__(self) -> None:
        self.leases: dict[str, Json] = {}
        self.pods: dict[str, Json] = {}
        self.events: list[Json] = []
        """As they were posted, the first one first."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of all that arrived; ``WATCH`` for a watch."""
        self.fail_with = 0
        """If set, the status that every request is answered with, and nothing is done."""
        self.lose_answers = 0
        """So many of the next writes are done and never answered."""
        self.silent_watches = False
        """Watches stay open and are told nothing."""
        self.port = 0
        self._version = 0
        self._answering = asyncio.Event()
        self._answering.set()
        self._watches: set[asyncio.Queue[Json | None]] = set()
        self._work: set[asyncio.Future[web.StreamResponse]] = set()
        self._runner: web.AppRunner | None = None

    # --- its life

    async def start(self) -> None:
        """Listen: on any free port first, then on the same again."""
        app = web.Application(middlewares=[self._gate])
        app.router.add_get(LEASES, self._list)
        app.router.add_post(LEASES, self._create)
        app.router.add_get(LEASES + "/{name}", self._get)
        app.router.add_patch(LEASES + "/{name}", self._patch)
        app.router.add_get(PODS + "/{name}", self._get_pod)
        app.router.add_post(EVENTS, self._create_event)
        self._runner = web.AppRunner(app, shutdown_timeout=0.0, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End all connections; new ones are refused until the next ``start``. Objects are kept."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            for work in self._work:
                work.cancel()
            await runner.cleanup()

    @property
    def started(self) -> bool:
        """Whether connections are taken."""
        return self._runner is not None

    def kubeconfig(self, path: Path) -> Path:
        """Write how to get here."""
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        user = {"name": "u", "user": {"token": "t"}}
        config = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [user]}
        path.write_text(json.dumps(config | {"contexts": [context], "current-context": "x"}))
        return path

    # --- faults

    def hang(self) -> None:
        """Requests arrive and are not answered; they are done when it goes on, also those that were given up."""
        self._answering.clear()

    def go_on(self) -> None:
        """End that."""
        self._answering.set()

    def end_watches(self) -> None:
        """As a server does that restarts."""
        for queue in self._watches:
            queue.put_nowait(None)

    def send(self, event: Json) -> None:
        """Send this to all watches."""
        for queue in self._watches:
            queue.put_nowait(event)

    def bookmark(self) -> None:
        """Tell watches the present version, and nothing else."""
        self.send(_bookmark(self._version))

    @property
    def watches(self) -> int:
        """How many are open."""
        return len(self._watches)

    # --- objects

    def put(self, name: str, lease: Json) -> Json:
        """Somebody else makes a Lease, or replaces what it says."""
        found = self.leases.get(name)
        metadata = found["metadata"] if found else {"name": name, "uid": str(uuid.uuid4())}
        new = {**copy.deepcopy(lease), "metadata": {**metadata, **lease.get("metadata", {})}}
        return self._change("MODIFIED" if found else "ADDED", new)

    def delete(self, name: str) -> None:
        """Somebody deletes a Lease."""
        self._change("DELETED", self.leases[name])
        del self.leases[name]

    def annotations(self, name: str) -> dict[str, str]:
        """Those of a Lease."""
        found: dict[str, str] = self.leases[name]["metadata"].get("annotations", {})
        return found

    def _change(self, kind: str, lease: Json) -> Json:
        self._version += 1
        lease = copy.deepcopy(lease)
        lease["metadata"]["resourceVersion"] = str(self._version)
        for name in lease.get("spec", {}).keys() & {"acquireTime", "renewTime"}:
            lease["spec"][name] = lease["spec"][name].replace("+00:00", "Z")
        self.leases[lease["metadata"]["name"]] = lease
        self.send({"type": kind, "object": lease})
        return lease

    # --- requests

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if "watch" in request.query:  # ends with its connection
            return await self._answer(request, handler)
        work = asyncio.ensure_future(self._answer(request, handler))
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        return await asyncio.shield(work)

    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.requests.append(("WATCH" if "watch" in request.query else request.method, request.path))
        await request.read()
        await self._answering.wait()
        if self.fail_with:
            return _status(self.fail_with, f"told to answer {self.fail_with}")
        if request.match_info["namespace"] != NAMESPACE and request.method == "POST":
            return _status(404, f'namespaces "{request.match_info["namespace"]}" not found')
        response = await handler(request)
        if self.lose_answers and request.method in ("POST", "PATCH"):
            self.lose_answers -= 1
            await asyncio.Event().wait()
        return response

    async def _get(self, request: web.Request) -> web.Response:
        lease = self.leases.get(request.match_info["name"])
        return web.json_response(lease) if lease else _not_found("leases", request)

    async def _create(self, request: web.Request) -> web.Response:
        lease = await request.json()
        name = lease["metadata"]["name"]
        if name in self.leases:
            return _status(409, f'leases.coordination.k8s.io "{name}" already exists')
        return web.json_response(self.put(name, lease), status=201)

    async def _patch(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/merge-patch+json"
        lease = self.leases.get(request.match_info["name"])
        if lease is None:
            return _not_found("leases", request)
        patch = await request.json()
        metadata = lease["metadata"]
        wanted = {"resourceVersion": metadata["resourceVersion"], "uid": metadata["uid"], **patch["metadata"]}
        if wanted["resourceVersion"] != metadata["resourceVersion"]:
            return _status(409, f'leases "{metadata["name"]}": the object has been modified')
        if wanted["uid"] != metadata["uid"]:
            return _status(422, "metadata.uid: field is immutable")
        patched = merged(lease, patch)
        return web.json_response(lease if patched == lease else self._change("MODIFIED", patched))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        field, _, name = request.query["fieldSelector"].partition("=")
        whole = "watch" in request.query and "resourceVersion" not in request.query
        assert field == "metadata.name" and whole, "members make no other list"
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[Json | None] = asyncio.Queue()
        for lease in self.leases.values():
            queue.put_nowait({"type": "ADDED", "object": lease})
        if request.query.get("allowWatchBookmarks", "").lower() == "true":
            queue.put_nowait(_bookmark(self._version))
        self._watches.add(queue)
        try:
            while (next_event := await queue.get()) is not None:
                await self._answering.wait()
                other = next_event["object"]["metadata"].get("name", name) != name
                if not self.silent_watches and not other:
                    await response.write(_line(next_event))
        finally:
            self._watches.discard(queue)
        return response

    async def _get_pod(self, request: web.Request) -> web.Response:
        pod = self.pods.get(request.match_info["name"])
        return web.json_response(pod) if pod else _not_found("pods", request)

    async def _create_event(self, request: web.Request) -> web.Response:
        event = await request.json()
        name = event["metadata"]["name"]
        if any(one["metadata"]["name"] == name for one in self.events):
            return _status(409, f'events.events.k8s.io "{name}" already exists')
        for field, most in (("note", 1024), ("reason", 128), ("reportingInstance", 128)):
            if len(event[field].encode()) > most:
                return _status(422, f"{field}: can have at most {most} characters")
        self.events.append(event)
        return web.json_response(event, status=201)


@asynccontextmanager
async def api_server() -> AsyncIterator[FakeApiServer]:
    """A server on this loop."""
    server = FakeApiServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(server: FakeApiServer) -> AsyncIterator[client.ApiClient]:
    """A client of its own."""
    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{server.port}"
    api = client.ApiClient(settings)
    try:
        yield api
    finally:
        await api.close()  # type: ignore[no-untyped-call]


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, and no empty map of annotations, as a Kubernetes object has none."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    if found.get("annotations") == {}:
        del found["annotations"]
    return found


def _bookmark(version: int) -> Json:
    return {"type": "BOOKMARK", "object": {"kind": "Lease", "metadata": {"resourceVersion": str(version)}}}


def _line(event: Json) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _not_found(kind: str, request: web.Request) -> web.Response:
    return _status(404, f'{kind} "{request.match_info["name"]}" not found')


def _status(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return web.json_response(body | {"reason": REASONS.get(code, "Unknown")}, status=code)

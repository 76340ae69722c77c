"""The relay of this process: puts store, broker, front, links and listeners together, and takes them apart again.

Start: store, front, links, election, listeners, ready. Whatever fails ends the start with one line (a PosthouseError)
and leaves nothing behind. Stop, in the opposite order: not ready, no new connections, the broker handed over where
there is somebody to take it, clients sent away, store closed, lease given back.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

import posthouse
from posthouse.config import Config, hidden_password
from posthouse.errors import MissingExtra
from posthouse.identity import warm_bucket_table
from posthouse.link.frames import Handover
from posthouse.server import http, listeners, memory, settings
from posthouse.server.cluster import Cluster, leasing
from posthouse.server.control import ControlSocket
from posthouse.server.departure import Departure
from posthouse.server.engine import Engine, wall_ms
from posthouse.server.front import Front
from posthouse.server.information import InformationDocument
from posthouse.server.metrics import CommitTimes
from posthouse.server.pages import control_commands, metrics_pages
from posthouse.server.session_log import SessionLog
from posthouse.server.snapshot import Snapshot
from posthouse.server.sockets import Acceptor, ServingLoop
from posthouse.server.tls import Certificate
from posthouse.server.tls_connection import TlsConnection
from posthouse.server.watch import DiskFloor, Watch, set_clock
from posthouse.server.websocket.endpoint import Endpoint
from posthouse.session.settings import Conditions
from posthouse.single_active.roles import Role
from posthouse.store.interface import Store, Tally
from posthouse.store.opening import open_store
from posthouse.store.threads import StoreThreads
from posthouse.wire.audience import audience_of
from posthouse.wire.codes import Code

if TYPE_CHECKING:
    from posthouse.server.pods import Pod

ACCEPTED_A_TURN: Final = 128
"""Connections taken from one listener in one loop turn: those that are there must not wait for a crowd."""
STOPPING: Final = "stopping"
"""Why a member that ends hands over."""
SERVED_HERE: Final = (Role.PROMOTING, Role.ACTIVE, Role.IN_DOUBT)
STORE_PATIENCE_S: Final = 2.0
"""How long a stop waits for the store, beyond the time that a commit may take."""
CLOSE_PATIENCE_S: Final = 5.0
"""How long a stop waits for a store that hangs to close."""
PEERS_PATIENCE_S: Final = 2.0
"""How long a stop waits for its peers' close frames."""
DECISION_S: Final = 2.0
"""How long a start waits to know who is active: clients that come earlier wait for it in their hello."""
_log = structlog.get_logger()


class Relay:
    """One relay: ``start``, then ``stop``, once each."""

    def __init__(self, config: Config) -> None:
        self.fenced = asyncio.Event()
        """Set when this relay, which takes itself for alone, finds that another owns its store."""
        self._config = config
        self._open = AsyncExitStack()
        self._ready = False
        self._stopping = False
        self._since_ms = wall_ms()
        self._conditions = Conditions()
        self._commit_times = CommitTimes()
        self._watermark = memory.MemoryWatermark(
            config.limits.memory_watermark_bytes or memory.default_limit_bytes(), memory.resident_bytes
        )
        path = config.sqlite_path
        self._floor = DiskFloor(path.absolute().parent if path else None, config.store.min_free_bytes)
        self._acceptors: list[asyncio.Server | Acceptor] = []
        self._certificate: Certificate | None = None
        self._departure: Departure | None = None
        self._store: Store
        self._engine: Engine
        self._front: Front
        self._cluster: Cluster
        self._endpoint: Endpoint

    # --- start

    async def start(self) -> None:
        """Serve. Raises PosthouseError with one line that says what is in the way."""
        try:
            await self._start()
        except BaseException:
            await self._open.aclose()
            raise

    async def _start(self) -> None:
        config = self._config
        files = listeners.allow_open_files()
        if files < config.limits.max_connections + listeners.SPARE_FILES:
            _log.warning(
                "open files are limited below limits.max_connections",
                open_files=files,
                max_connections=config.limits.max_connections,
            )
        if config.server.tls_cert:
            self._certificate = Certificate(Path(config.server.tls_cert), Path(config.server.tls_key))
        set_clock(self._conditions)
        warm_bucket_table()
        await self._open_store()
        sockets = self._bind(config.server.listen)
        metrics_sockets = self._bind(config.server.metrics_listen)
        self._make_front(listeners.shown(sockets))
        await self._join()
        self._start_watch()
        for server in await http.serve_pages(
            metrics_sockets, metrics_pages(self.snapshot, self._commit_times)
        ):
            self._open.callback(server.close)
        await self._accept(sockets)
        # What has been made until now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        _log.info(
            "listening",
            address=listeners.shown(sockets),
            metrics=listeners.shown(metrics_sockets),
            tls=self._certificate is not None,
            relay=self._engine.relay_id,
            member=self._cluster.member,
            role=self._role,
            epoch=self._conditions.epoch or 0,
            version=posthouse.__version__,
            pid=os.getpid(),
        )

    async def _open_store(self) -> None:
        config = self._config
        loop = asyncio.get_running_loop()
        self._store = open_store(
            config.store.url, config.store.busy_timeout_ms, int(config.store.commit_timeout_s * 1000)
        )
        _log.info("opening the store", store=hidden_password(config.store.url))
        # In another thread: a store that is large, or locked, takes its time, and signals have to be heard meanwhile.
        threads = await loop.run_in_executor(None, StoreThreads, self._store, loop.call_soon_threadsafe)
        engine = self._engine = Engine(
            threads,
            settings.broker_settings(config),
            commit_timeout_s=config.store.commit_timeout_s,
            on_fenced=self._is_fenced,
        )
        self._open.push_async_callback(engine.close)
        engine.on_commit = self._commit_times.took
        await engine.open()
        if not self._store.durable and config.lease_kind == "kubernetes":
            engine.relay_id = leasing.relay_id(config)

    def _bind(self, address: str) -> list[socket.socket]:
        sockets = listeners.bind(address, backlog=self._config.server.backlog)
        for sock in sockets:
            self._open.callback(sock.close)
        return sockets

    def _make_front(self, listen: str) -> None:
        config = self._config
        names = config.server.public_names
        session_settings = settings.session_settings(config, self._engine.relay_id)
        self._front = Front(
            self._engine,
            session_settings,
            self._conditions,
            legacy_enabled=config.legacy.enabled,
            audience=lambda host: audience_of(host, names, listen),
            limits=settings.front_limits(config),
        )
        self._open.callback(self._front.stop)
        self._front.on_session_end = SessionLog().ended
        self._endpoint = Endpoint(
            settings.websocket_limits(config),
            choose=self._front.choose,
            information=InformationDocument(
                relay=self._engine.relay_id,
                name=config.server.name,
                legacy=config.legacy.enabled,
                limits=session_settings.limits,
                public_names=names,
                standing=lambda: (self._role, self._conditions.epoch or 0),
            ),
            session_factory=self._front.session_factory,
            turn=self._engine.turn,
        )

    async def _join(self) -> None:
        """Become a member, and see who is active."""
        config = self._config
        path = config.control_socket_path
        # One beside the store is the active member's; one that was set is this member's whatever it is.
        own = bool(config.server.control_socket)
        control = (
            ControlSocket(path, control_commands(self.snapshot, self._engine, self._promote))
            if path
            else None
        )
        pod = await self._join_pod()
        cluster = self._cluster = Cluster(
            config,
            self._engine,
            self._store,
            self._front,
            self._conditions,
            ready=lambda: self._not_ready() is None,
            control=None if own else control,
            pod=pod,
            on_stuck=lambda: os._exit(1),
        )
        self._open.push_async_callback(cluster.close)
        cluster.role_changed = self._role_changed
        if control is not None:
            self._open.push_async_callback(control.end)
            if own:
                await control.open()
        await cluster.start()
        await cluster.settled(DECISION_S)
        self._ready = True
        cluster.look()

    async def _join_pod(self) -> Pod | None:
        """What there is of Kubernetes, where the lease is of that kind. Raises PosthouseError."""
        if self._config.lease_kind != "kubernetes":
            return None
        try:
            from posthouse.server.pods import Pod
        except ModuleNotFoundError:
            raise MissingExtra("a lease of Kubernetes", "kubernetes") from None
        pod = await Pod.join(self._config, self._notes)
        self._open.push_async_callback(pod.close)
        return pod

    def _notes(self) -> dict[str, str]:
        return self._cluster.notes()

    async def _promote(self, member: str) -> Handover:
        return await self._cluster.promote(member)

    def _start_watch(self) -> None:
        watch = Watch(
            self._front,
            self._conditions,
            self._watermark,
            self._floor,
            self._certificate,
            self._config.server.tls_reload_s,
            also=self._cluster.look,
        )
        watch.look()
        self._open.callback(asyncio.create_task(watch.run(), name="watch").cancel)

    async def _accept(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, ServingLoop):
            turn, selector = self._engine.turn, loop.selector
            selector.before, selector.after = turn.begin, turn.finish
            for sock in sockets:
                acceptor = Acceptor(loop, sock, self._new_connection, ACCEPTED_A_TURN)
                self._acceptors.append(acceptor)
                self._open.callback(acceptor.close)
            return
        for sock in sockets:
            server = await loop.create_server(self._new_connection, sock=sock, backlog=ACCEPTED_A_TURN)
            # The loop's ``backlog`` is both this and the kernel's.
            sock.listen(self._config.server.backlog)
            self._acceptors.append(server)
            self._open.callback(server.close)

    def _new_connection(self) -> asyncio.BufferedProtocol:
        if self._certificate is None:
            return self._endpoint.new_connection()
        return TlsConnection(self._endpoint, self._certificate.context)

    # --- while it runs

    def _is_fenced(self) -> None:
        """Another promotion owns the store: let it, and follow it; who takes himself for alone has to end."""
        if self._config.lease_kind == "none":
            self.fenced.set()
        self._cluster.fenced()

    def _role_changed(self) -> None:
        self._since_ms = wall_ms()

    @property
    def _role(self) -> str:
        if self._stopping and self._cluster.role is not Role.STOPPED:
            return Role.DRAINING.value
        return self._cluster.role.value

    def reload(self) -> None:
        """Load the TLS certificates again."""
        if self._certificate is not None:
            self._certificate.reload()
        self._cluster.reload_if_changed()

    def snapshot(self) -> Snapshot:
        """What is so now."""
        broker = self._engine.broker if self._engine.active else None
        total = broker.ledger.total if broker is not None else Tally()
        cluster = self._cluster
        return Snapshot(
            role=self._role,
            epoch=self._conditions.epoch or 0,
            active=cluster.active,
            members=cluster.members,
            last_handover=cluster.last_handover,
            not_ready=self._not_ready(),
            since_ms=self._since_ms,
            relay=self._engine.relay_id,
            member=cluster.member,
            store_url=hidden_password(self._config.store.url),
            store_durable=self._store.durable,
            store_healthy=self._engine.store_healthy,
            times_fenced=self._engine.times_fenced,
            store_messages=total.count,
            store_bytes=total.bytes,
            disk_free_bytes=self._floor.free_bytes,
            lease_kind=self._config.lease_kind,
            lease_held=cluster.holds_lease,
            connections=self._front.count,
            sessions=self._front.sessions,
            hosted_sessions=cluster.hosted_sessions,
            half_open=len(self._endpoint.opening),
            overloaded=self._watermark.exceeded,
            memory_limit_bytes=self._watermark.limit_bytes,
            counts=self._endpoint.counted(),
            refused=self._conditions.refused,
            counters=broker.counters if broker is not None else None,
        )

    def _not_ready(self) -> str | None:
        if self._stopping:
            return Role.DRAINING.value
        if not self._ready:
            return Role.STARTING.value
        if self._cluster.out_of_reach:
            return "no active instance is reached"
        return None if self._engine.store_healthy else "the store does not take writes"

    # --- stop

    def hurry(self) -> None:
        """Make a stop that is under way quick."""
        if self._departure is not None:
            self._departure.hurry()
            self._cluster.hurry()

    async def stop(self) -> bool:
        """Hand over or answer everything, send the clients away, and let go of the store.

        False if the store hangs: then its thread is still there, and only the end of the process ends it.
        """
        config, cluster = self._config, self._cluster
        self._stopping = True
        self._since_ms = wall_ms()
        _log.info("stopping", connections=self._front.count, drain_s=config.server.drain_s)
        if not config.server.linger_s:
            self._take_no_connections()
        departure = self._departure = Departure(
            self._engine,
            self._front,
            self._endpoint,
            drain_s=config.server.drain_s,
            patience_s=config.store.commit_timeout_s + STORE_PATIENCE_S,
        )
        if self.fenced.is_set():
            departure.hurry()
        if cluster.role in SERVED_HERE and not cluster.can_hand_over:
            await self._stop_alone(departure)
        else:
            await self._stop_among_others(departure)
        try:
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                await self._open.aclose()
        except TimeoutError:
            _log.error("the store does not close: ending without it")
            return False
        _log.info("stopped")
        return True

    def _take_no_connections(self) -> None:
        self._front.draining = True
        for acceptor in self._acceptors:
            acceptor.close()

    async def _stop_alone(self, departure: Departure) -> None:
        """There is nobody who could go on: the clients go first, then the broker."""
        self._take_no_connections()
        self._conditions.refuse = Code.DRAINING
        self._conditions.refuse_retry_ms = None
        answered = await departure.settle()
        await departure.send_away()
        await departure.wait_until_gone(PEERS_PATIENCE_S)
        if answered:
            # Acks that came while they left.
            answered = await departure.settle()
        await self._cluster.leave(STOPPING, graceful=answered)

    async def _stop_among_others(self, departure: Departure) -> None:
        """The broker goes first, then the clients, who are served by the next one until they go.

        Those that a load balancer still sends meanwhile are served by the next one too.
        """
        linger_until = asyncio.get_running_loop().time() + self._config.server.linger_s
        await self._cluster.leave(STOPPING)
        if self._cluster.served_elsewhere:
            await departure.linger(linger_until - asyncio.get_running_loop().time())
        self._take_no_connections()
        await departure.send_away()
        await departure.wait_until_gone(PEERS_PATIENCE_S)
        await self._cluster.acks_confirmed()

"""The relay of this process: puts store, broker, front and listeners together, and takes them apart again.

Start: lease, store, promotion, listeners, ready. Whatever fails ends the start with one line (a PosthouseError) and
leaves nothing behind. Stop, in the opposite order: not ready, no new connections, everything committed and answered,
clients sent away, store closed, lease given back.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

import posthouse
from posthouse.config import Config, hidden_password
from posthouse.identity import warm_bucket_table
from posthouse.server import http, lease, listeners, memory, settings
from posthouse.server.control import ControlSocket
from posthouse.server.departure import Departure
from posthouse.server.engine import Engine, wall_ms
from posthouse.server.front import Front
from posthouse.server.information import InformationDocument
from posthouse.server.metrics import CommitTimes
from posthouse.server.pages import control_commands, metrics_pages
from posthouse.server.session_log import SessionLog
from posthouse.server.snapshot import Role, Snapshot
from posthouse.server.sockets import Acceptor, ServingLoop
from posthouse.server.tls import Certificate
from posthouse.server.tls_connection import TlsConnection
from posthouse.server.watch import DiskFloor, Watch, set_clock
from posthouse.server.websocket.endpoint import Endpoint
from posthouse.session.settings import Conditions
from posthouse.store.interface import Store, Tally
from posthouse.store.opening import open_store
from posthouse.store.threads import StoreThreads
from posthouse.wire.audience import audience_of
from posthouse.wire.codes import Code

ACCEPTED_A_TURN: Final = 128
"""Connections taken from one listener in one loop turn: those that are there must not wait for a crowd."""
STORE_PATIENCE_S: Final = 2.0
"""How long a stop waits for the store, beyond the time that a commit may take."""
CLOSE_PATIENCE_S: Final = 5.0
"""How long a stop waits for a store that hangs to close."""
PEERS_PATIENCE_S: Final = 2.0
"""How long a stop waits for its peers' close frames."""
_log = structlog.get_logger()


class Relay:
    """One relay: ``start``, then ``stop``, once each."""

    def __init__(self, config: Config) -> None:
        self.fenced = asyncio.Event()
        """Set when another promotion owns the store: nothing can be promised here any more."""
        self._config = config
        self._open = AsyncExitStack()
        self._role: Role = "starting"
        self._since_ms = wall_ms()
        self._conditions = Conditions()
        self._commit_times = CommitTimes()
        self._watermark = memory.MemoryWatermark(
            config.limits.memory_watermark_bytes or memory.default_limit_bytes(), memory.resident_bytes
        )
        path = config.sqlite_path
        self._floor = DiskFloor(path.absolute().parent if path else None, config.store.min_free_bytes)
        self._member = platform.node() or "relay"
        self._lease_kind = "none"
        self._acceptors: list[asyncio.Server | Acceptor] = []
        self._certificate: Certificate | None = None
        self._departure: Departure | None = None
        self._store: Store
        self._engine: Engine
        self._front: Front
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
        await self._start_broker()
        sockets = self._bind(config.server.listen)
        metrics_sockets = self._bind(config.server.metrics_listen)
        self._start_front(listeners.shown(sockets))
        await self._open_control_socket()
        self._start_watch()
        for server in await http.serve_pages(
            metrics_sockets, metrics_pages(self.snapshot, self._commit_times)
        ):
            self._open.callback(server.close)
        await self._accept(sockets)
        self._become("active")
        # What has been made until now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        _log.info(
            "listening",
            address=listeners.shown(sockets),
            metrics=listeners.shown(metrics_sockets),
            tls=self._certificate is not None,
            relay=self._engine.relay_id,
            epoch=self._engine.epoch,
            version=posthouse.__version__,
            pid=os.getpid(),
        )

    async def _start_broker(self) -> None:
        config = self._config
        held = lease.take(config)
        if held is not None:
            self._open.callback(held.release)
            self._lease_kind = "file"
        loop = asyncio.get_running_loop()
        self._store = open_store(
            config.store.url, config.store.busy_timeout_ms, int(config.store.commit_timeout_s * 1000)
        )
        _log.info("opening the store", store=hidden_password(config.store.url))
        # In another thread: a store that is large, or locked, takes its time, and signals have to be heard meanwhile.
        threads = await loop.run_in_executor(None, StoreThreads, self._store, loop.call_soon_threadsafe)
        engine = Engine(
            threads,
            settings.broker_settings(config),
            commit_timeout_s=config.store.commit_timeout_s,
            on_fenced=self._is_fenced,
        )
        self._open.push_async_callback(engine.close)
        engine.on_commit = self._commit_times.took
        await engine.promote()
        self._engine = engine
        self._conditions.epoch = engine.epoch
        _log.info(
            "promoted",
            epoch=engine.epoch,
            relay=engine.relay_id,
            store=hidden_password(config.store.url),
            lease=self._lease_kind,
        )

    def _bind(self, address: str) -> list[socket.socket]:
        sockets = listeners.bind(address, backlog=self._config.server.backlog)
        for sock in sockets:
            self._open.callback(sock.close)
        return sockets

    def _start_front(self, listen: str) -> None:
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

    async def _open_control_socket(self) -> None:
        path = self._config.control_socket_path
        if path is not None:
            control = ControlSocket(path, control_commands(self.snapshot, self._engine))
            await control.open()
            self._open.push_async_callback(control.close)

    def _start_watch(self) -> None:
        watch = Watch(
            self._front,
            self._conditions,
            self._watermark,
            self._floor,
            self._certificate,
            self._config.server.tls_reload_s,
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
        """Another promotion owns the store: who says hello now hears nothing that this relay could not keep."""
        self._conditions.epoch = None
        self.fenced.set()

    def reload(self) -> None:
        """Load the TLS certificate again."""
        if self._certificate is not None:
            self._certificate.reload()

    def snapshot(self) -> Snapshot:
        """What is so now."""
        broker = self._engine.broker if self._engine.active else None
        total = broker.ledger.total if broker is not None else Tally()
        return Snapshot(
            role=self._role,
            epoch=self._conditions.epoch or 0,
            not_ready=self._not_ready(),
            since_ms=self._since_ms,
            relay=self._engine.relay_id,
            member=self._member,
            store_url=hidden_password(self._config.store.url),
            store_durable=self._store.durable,
            store_healthy=self._engine.store_healthy,
            store_messages=total.count,
            store_bytes=total.bytes,
            disk_free_bytes=self._floor.free_bytes,
            lease_kind=self._lease_kind,
            connections=self._front.count,
            sessions=self._front.sessions,
            half_open=len(self._endpoint.opening),
            overloaded=self._watermark.exceeded,
            memory_limit_bytes=self._watermark.limit_bytes,
            counts=self._endpoint.counted(),
            refused=self._conditions.refused,
            counters=broker.counters if broker is not None else None,
        )

    def _not_ready(self) -> str | None:
        if self._role != "active":
            return self._role
        return None if self._engine.store_healthy else "the store does not take writes"

    def _become(self, role: Role) -> None:
        self._role = role
        self._since_ms = wall_ms()

    # --- stop

    def hurry(self) -> None:
        """Make a stop that is under way quick."""
        if self._departure is not None:
            self._departure.hurry()

    async def stop(self) -> bool:
        """Answer everything, send the clients away, and let go of the store.

        False if the store hangs: then its thread is still there, and only the end of the process ends it.
        """
        config = self._config
        self._become("draining")
        _log.info("stopping", connections=self._front.count, drain_s=config.server.drain_s)
        self._front.draining = True
        self._conditions.refuse = Code.DRAINING
        self._conditions.refuse_retry_ms = None
        for acceptor in self._acceptors:
            acceptor.close()
        departure = self._departure = Departure(
            self._engine,
            self._front,
            self._endpoint,
            drain_s=config.server.drain_s,
            patience_s=config.store.commit_timeout_s + STORE_PATIENCE_S,
        )
        if self.fenced.is_set():
            departure.hurry()
        answered = await departure.settle()
        await departure.send_away()
        await departure.wait_until_gone(PEERS_PATIENCE_S)
        if answered:
            # Acks that came while they left.
            await departure.settle()
        self._become("stopped")
        try:
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                await self._open.aclose()
        except TimeoutError:
            _log.error("the store does not close: ending without it")
            return False
        _log.info("stopped")
        return True

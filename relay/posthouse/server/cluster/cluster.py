"""One member: puts the election, its links and its front's upstream together.

A member that is not active keeps one link to the one that is (`following.py`), and takes those of the others when it is
active itself (`hosting.py`). What the lease says decides whom it follows; what comes over the link decides where its
sessions are served.
"""

from __future__ import annotations

import asyncio
import platform
import random
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from posthouse.config import Config
from posthouse.errors import PosthouseError
from posthouse.link import frames
from posthouse.link.frames import Handover, MemberState
from posthouse.link.talk import Me
from posthouse.server import news
from posthouse.server.cluster import leasing
from posthouse.server.cluster.active import ActiveWork
from posthouse.server.cluster.following import Following
from posthouse.server.cluster.hosting import Host
from posthouse.server.cluster.membership import Membership
from posthouse.server.cluster.reach import REASON, StoreReach
from posthouse.server.cluster.remote import Remote
from posthouse.server.cluster.switch import Sessions, Switch
from posthouse.server.control import ControlSocket
from posthouse.server.engine import Engine, boot_s
from posthouse.server.news import SERVING, News
from posthouse.server.peers import MutualTls, PeerAddress, PeerDialer, PeerListener
from posthouse.session.settings import Conditions
from posthouse.single_active.elector import Candidate
from posthouse.single_active.leases.file import this_process
from posthouse.single_active.leases.interface import Record
from posthouse.single_active.member import RoleChanged
from posthouse.single_active.roles import Event, Role
from posthouse.store.interface import Store

if TYPE_CHECKING:
    from posthouse.server.pods import Pod

STORE_PATIENCE_S: Final = 2.0
"""How long a promotion or a hand-over waits for the store, beyond the time that a commit may take."""
HANDOVER_S: Final = 10.0
"""How long ``promote`` waits until another member is active."""
ACKS_S: Final = 2.0
"""How long a member that ends waits until the acks of its clients are for good."""
SUCCESSOR_S: Final = 2.0
"""How long a member that ends waits, before it sends its clients away, until the next one serves them."""
LOOK_S: Final = 0.02
_log = structlog.get_logger()


class HandoverRefused(PosthouseError):
    """There is nobody to hand over to, or nobody who could; the text says why."""


class Cluster:
    """This member and what it knows of the others."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        store: Store,
        front: Sessions,
        conditions: Conditions,
        *,
        ready: Callable[[], bool],
        control: ControlSocket | None,
        pod: Pod | None,
        on_stuck: Callable[[], None],
    ) -> None:
        """``ready``: whether this member may take over. ``control``: the socket that belongs to the active member.

        ``pod``: what there is of a Kubernetes around this member; with the lease of that kind.
        """
        name = config.server.member or config.pod.name or platform.node() or "relay"
        self.member = f"{name}.{secrets.token_hex(3)}"
        """Id of this start of this member."""
        self.role_changed: Callable[[], None] = lambda: None
        """Called when the role has changed."""
        self._engine = engine
        self._ready = ready
        self._announced = True
        """Whether this member was ready when others were told last."""
        self._address = ""
        """Of the peer port, as others are told."""
        self._switch = Switch(
            engine,
            front,
            conditions,
            hold_s=config.limits.hold_s,
            max_held_bytes=config.limits.max_held_bytes,
        )
        self._host = Host(engine, me=self._me, on_ask=self._hand_over)
        self._following = Following(self._switch, report=self._report, on_ended=self._active_ended)
        self._work = ActiveWork(
            engine,
            self._switch,
            self._host,
            member=self.member,
            control=control,
        )
        self._tls = (
            MutualTls(Path(config.peer.tls_cert), Path(config.peer.tls_key), Path(config.peer.tls_ca))
            if config.peer.tls_cert
            else None
        )
        me = Me(engine.relay_id, self.member, 0)
        listen = leasing.peer_listen(config, self.member)
        self._listener = (
            PeerListener(PeerAddress.parse(listen), self._tls, me, self._host.new_front) if listen else None
        )
        self._dialer = PeerDialer(self._tls, lambda: me, self._following, on_refused=self._is_dead)
        self._config = config
        self._reach = StoreReach(engine) if store.durable and config.sqlite_path is None else None
        self._lease = leasing.open_lease(config, store, pod)
        self._pod = pod
        self._looked_after = ""
        """Id of the holder whose container the cluster is asked about."""
        self._fenced = store.durable
        self._on_stuck = on_stuck
        self._membership: Membership | None = None
        self._leaving = False

    # --- questions

    @property
    def role(self) -> Role:
        """What this member is."""
        return self._membership.role if self._membership is not None else Role.STARTING

    @property
    def holds_lease(self) -> bool:
        """Whether the lease is surely its own."""
        return self._membership is not None and self._engine.authority.holds(boot_s())

    @property
    def active(self) -> str | None:
        """Id of the active member."""
        return self.member if self.role in SERVING else self._following.active

    @property
    def members(self) -> Sequence[MemberState]:
        """Those that are known."""
        standing = self._following.standing
        if self.role in SERVING or standing is None:
            return self._host.members()
        return standing.members

    @property
    def last_handover(self) -> Handover | None:
        """The last change of the active that is known."""
        standing = self._following.standing
        return (
            self._host.last_handover if self.role in SERVING or standing is None else standing.last_handover
        )

    @property
    def served_elsewhere(self) -> bool:
        """Whether the own clients are served by another member's broker."""
        return self._switch.remote is not None

    @property
    def out_of_reach(self) -> bool:
        """Whether no broker was found yet, or none for so long that publishes are rejected."""
        return self._switch.out_of_reach

    def notes(self) -> dict[str, str]:
        """What the lease may say of this member while it is active, for people and tools to see."""
        if self.role not in SERVING:
            return {}
        found = {"epoch": str(self._engine.epoch)}
        if self._host.last_handover is not None:
            found["last-handover"] = msgspec.json.encode(self._host.last_handover).decode()
        return found

    @property
    def hosted_sessions(self) -> int:
        """Sessions of other members' fronts at this one's broker."""
        return self._host.sessions

    # --- life

    async def start(self) -> None:
        """Listen for links, and stand for election. Raises CannotListen."""
        if self._listener is not None:
            await self._listener.open()
            self._address = leasing.peer_address(self._config, str(self._listener.address))
            _log.info("listening for members", address=self._address)
        timing = leasing.timing_of(self._config)
        self._membership = Membership(
            self._engine,
            self._work,
            self._lease,
            Candidate(self.member, self._address, this_process()),
            timing,
            fenced=self._fenced,
            jitter=random.random(),
            store_patience_s=self._config.store.commit_timeout_s + STORE_PATIENCE_S,
            on_role=self._role_changed,
            on_record=self._follow,
            on_stuck=self._on_stuck,
        )
        self._membership.start()

    async def settled(self, within_s: float) -> None:
        """Wait until somebody is active, or so long. Raises what the own first promotion failed with."""
        assert self._membership is not None, "not started"
        await asyncio.wait((self._membership.settled,), timeout=within_s)
        if self._membership.settled.done():
            await self._membership.settled
        await self._work.control_opened()

    def fenced(self) -> None:
        """The store refused a commit of our broker."""
        assert self._membership is not None, "not started"
        self._membership.fenced()

    @property
    def can_hand_over(self) -> bool:
        """Whether this member is active and another could take over."""
        return self.role in SERVING and bool(self._host.ready())

    async def leave(self, reason: str, *, graceful: bool = True) -> None:
        """Give the lease up for good; hand over first if this member is active.

        Then the own clients are served elsewhere, if the successor begins within some seconds. Without ``graceful``
        the store is not waited for.
        """
        if self._membership is None:
            return
        hands_over = self.can_hand_over or (self.role is Role.DRAINING and bool(self._work.successor))
        successor = ""
        if not self._work.successor:  # a hand-over that is under way has named one
            successor, self._work.successor = next(iter(self._host.ready()), ("", ""))
        self._leaving = True
        self._membership.leave(reason, successor, graceful=graceful)
        await self._membership.left.wait()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SUCCESSOR_S
        while hands_over and loop.time() < deadline:
            if self.served_elsewhere:
                return
            await asyncio.sleep(LOOK_S)

    def hurry(self) -> None:
        """Leave without waiting for the store any longer, if leaving has begun."""
        if self._leaving and self._membership is not None:
            self._membership.leave("hurried", graceful=False)

    async def acks_confirmed(self) -> None:
        """Wait until no ack of our clients could be undone by the loss of the active member, or some seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ACKS_S
        while loop.time() < deadline:
            upstream = self._switch.upstream
            if not (isinstance(upstream, Remote) and upstream.awaits_confirmation()):
                return
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """End all links and tasks, and give back what is held."""
        self._dialer.close()
        if self._listener is not None:
            self._listener.close()
        self._host.stop()
        self._switch.stop()
        if self._reach is not None:
            self._reach.stop()
        if self._membership is not None:
            await self._membership.close()
        else:
            await self._lease.close()

    def reload_if_changed(self) -> None:
        """Look at the certificate of links."""
        if self._tls is not None:
            self._tls.reload_if_changed()

    def look(self) -> None:
        """Tell others if this member's readiness has changed; see to the store, the certificate and the peer socket."""
        if self._reach is not None:
            self._see_to_store(self._reach)
        self._report_again()
        self.reload_if_changed()
        if self._listener is not None:
            self._listener.look()

    # --- handing over on request

    async def promote(self, member: str) -> Handover:
        """Have another member be active: this one by its id or name, or any. Raises PosthouseError."""
        before = self._epoch
        if self.role in SERVING:
            refused = self._hand_over(member)
            if refused is not None:
                raise HandoverRefused(refused)
        else:
            await self._following.ask(member)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HANDOVER_S
        while loop.time() < deadline:
            handover = self.last_handover
            if self._epoch > before:
                if handover is None or handover.epoch != self._epoch:
                    raise HandoverRefused(f"no other member took over: {self.active} is active again")
                return handover
            await asyncio.sleep(LOOK_S)
        raise HandoverRefused(f"nobody was active within {HANDOVER_S:g} s")

    @property
    def _epoch(self) -> int:
        """Of the active member's broker, as far as it is known."""
        if self.role in SERVING:
            return self._engine.epoch
        standing = self._following.standing
        return standing.epoch if standing is not None and standing.serving else 0

    def _hand_over(self, wanted: str) -> str | None:
        """Begin to; why not, or None."""
        assert self._membership is not None
        if self.role not in SERVING:
            return "this member is not active"
        if self.role is Role.IN_DOUBT:
            return "the lease cannot be reached at the moment: nobody could claim it"
        ready = self._host.ready()
        if wanted:
            ready = [one for one in ready if wanted in (one[0], one[0].rpartition(".")[0])]
        if not ready:
            known = ", ".join(name for name, _ in self._host.ready()) or "none"
            return f"no other member {wanted + ' ' if wanted else ''}is ready to take over; ready: {known}"
        successor, self._work.successor = ready[0]
        self._membership.hand_over("promote", successor)
        return None

    # --- what happens

    def _me(self) -> MemberState:
        return MemberState(self.member, self.role.value, self._ready())

    def _see_to_store(self, reach: StoreReach) -> None:
        """Have another be active if the store answers that one, and not this one."""
        if self.role not in SERVING:
            reach.look_beside(needed=not self._following.active_is_well)
            return
        now = boot_s()
        found = self._host.reaching_store()
        if (
            self.role is Role.ACTIVE
            and self._membership is not None
            and reach.should_hand_over(now)
            and found
        ):
            reach.handed_over(now)
            successor, self._work.successor = found[0]
            self._membership.hand_over(REASON, successor)

    def _report(self) -> frames.Report:
        return frames.Report(
            self.role.value,
            self._ready(),
            self._address,
            self._reach is not None and self._reach.answers,
        )

    def _report_again(self) -> None:
        """To the active one; and, as the active one, to all."""
        self._following.tell_again()
        if self.role in SERVING and self._announced != self._ready():
            self._announced = self._ready()
            self._host.announce()

    def _role_changed(self, changed: RoleChanged) -> None:
        if changed.role is Role.PROMOTING:
            self._work.successor = ""  # that of the term before
        if changed.event is Event.PROMOTED:
            # Soon: the broker has not begun, and who was active before is told by its beginning.
            asyncio.get_running_loop().call_soon(self._tell_promotion)
        elif (item := news.of_role(changed, self._successor())) is not None:
            self._tell(item)
        self._report_again()
        self._host.announce()
        self.role_changed()

    def _successor(self) -> str:
        """Name of the member that this term is handed over to; empty if nobody is named."""
        address = self._work.successor
        return next((name for name, at in self._host.ready() if at == address), address)

    def _tell_promotion(self) -> None:
        if self.role in SERVING:
            self._tell(news.of_promotion(self._engine.epoch, self._host.last_handover))

    def _tell(self, item: News) -> None:
        if self._pod is not None:
            self._pod.tell(item)

    def _active_ended(self, successor: str) -> None:
        """The active member, or our link to it, says that it serves no more: perhaps the lease is free."""
        if self._membership is not None:
            self._membership.look()
            self._look_after_holder(self._membership.record)
        if successor and successor != self._address:
            self._dialer.follow(successor)

    def _look_after_holder(self, record: Record | None) -> None:
        """What a broken link cannot tell, the cluster may: whether the container at its other end has ended."""
        if self._pod is None or record is None or record.container is None or record.released:
            return
        if record.holder != self.member and not self._following.linked:
            self._pod.look_after(record.container, record.duration_s, lambda: self._is_dead(record.peer))
            self._looked_after = record.holder

    def _is_dead(self, address: str) -> None:
        if self._membership is not None:
            self._membership.is_dead(address)

    def _follow(self) -> None:
        """Keep a link to whoever holds the lease, unless it is we; to the one that we hand over to, if it is nobody."""
        assert self._membership is not None
        record = self._membership.record
        if record is None:
            return
        if self._pod is not None and (record.released or record.holder != self._looked_after):
            self._pod.look_no_more()
        if record.holder != self.member:
            if record.peer and not record.released:
                self._dialer.follow(record.peer)
        elif not record.released:
            self._dialer.follow(None)
        else:
            self._host.announce()
            if self._work.successor:
                self._dialer.follow(self._work.successor)

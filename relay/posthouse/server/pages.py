"""What the metrics port shows and the control socket answers, from snapshots of the relay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from posthouse.identity import InvalidIdentity, canonical_address
from posthouse.link.frames import Handover
from posthouse.server.control import Command, CommandRefused
from posthouse.server.engine import Engine
from posthouse.server.http import JSON, Document, Pages
from posthouse.server.metrics import CommitTimes, MetricsPage
from posthouse.server.snapshot import Snapshot

_log = structlog.get_logger()


def metrics_pages(snapshot: Callable[[], Snapshot], commit_times: CommitTimes) -> Pages:
    """The pages of the metrics port."""

    def alive() -> Document:
        # That there is an answer at all says that the event loop turns.
        return Document(b"alive\n")

    def ready() -> Document:
        reason = snapshot().not_ready
        return Document(b"ready\n") if reason is None else Document(f"{reason}\n".encode(), status=503)

    def status() -> Document:
        return Document(msgspec.json.encode(snapshot().status()) + b"\n", JSON)

    return {
        "/metrics": MetricsPage(snapshot, commit_times),
        "/healthz": alive,
        "/readyz": ready,
        "/status": status,
    }


def control_commands(
    snapshot: Callable[[], Snapshot], engine: Engine, promote: Callable[[str], Awaitable[Handover]]
) -> dict[str, Command]:
    """The commands of the control socket. ``promote``: hand over to a member; raises PosthouseError."""

    async def purge(request: dict[str, Any]) -> dict[str, Any]:
        address = request.get("address")
        if not isinstance(address, str):
            raise CommandRefused("purge needs an address")
        try:
            canonical = canonical_address(address)
        except InvalidIdentity as error:
            raise CommandRefused(f"{address!r} is not an address: {error.what}") from None
        if not engine.active:
            raise CommandRefused(f"this member is not active; {snapshot().active or 'none'} is")
        purged = await engine.purge(canonical)
        _log.warning("mailbox purged", address=canonical, messages=purged)
        return {"purged": purged}

    async def status(_request: dict[str, Any]) -> dict[str, Any]:
        return {"status": snapshot().status()}

    async def hand_over(request: dict[str, Any]) -> dict[str, Any]:
        member = request.get("member", "")
        if not isinstance(member, str):
            raise CommandRefused("promote takes the name of a member, or none")
        return {"handover": msgspec.to_builtins(await promote(member))}

    return {"purge": purge, "status": status, "promote": hand_over}

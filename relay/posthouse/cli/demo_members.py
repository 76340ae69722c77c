"""The three members of the demonstration, on one store: who is active, and how to have another be it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from posthouse.cli.connecting import beside_the_loop
from posthouse.cli.demo_member import DemoMember, View
from posthouse.errors import PosthouseError
from posthouse.server.control import ask

_NAMES = ("A", "B", "C")
_LOOK_EVERY_S = 0.05
_PATIENCE_S = 15.0
"""Far longer than any change takes: what is not so by then has failed."""


class MembersFailed(PosthouseError):
    """The members did not do in time what they should, or refused it; the text says what."""


class DemoMembers:
    """Three processes, each a member of one relay. ``watch`` runs beside everything else and keeps ``views``."""

    def __init__(self, folder: Path) -> None:
        store = folder / "relay.db"
        self._control = store.with_name(store.name + ".sock")
        self.all = [DemoMember(name, folder, store) for name in _NAMES]
        self.views: dict[str, View | None] = dict.fromkeys(_NAMES)
        """What each member said of itself last, by name."""
        self._looked = asyncio.Event()

    # --- questions

    @property
    def active(self) -> DemoMember | None:
        """The active member, as far as it is known."""
        found = [
            (view.epoch, member)
            for member in self.all
            if (view := self.views[member.name]) is not None and view.role in ("active", "in doubt")
        ]
        return max(found, key=lambda one: one[0])[1] if found else None

    @property
    def epoch(self) -> int:
        """Of the active member; 0 if none is known."""
        active = self.active
        view = self.views[active.name] if active is not None else None
        return view.epoch if view is not None else 0

    @property
    def complete(self) -> bool:
        """Whether the active member knows all members to be ready."""
        active = self.active
        view = self.views[active.name] if active is not None else None
        return view is not None and view.ready == len(self.all)

    def at(self, url: str) -> DemoMember:
        """The member with this address."""
        return next(member for member in self.all if member.url == url)

    # --- life

    async def start(self) -> None:
        """Start the first, which makes the store and is active, then the others; ``watch`` has to run.

        Raises MembersFailed or MemberEnded if they do not come up.
        """
        first, *others = self.all
        first.start()
        await self.until(lambda: self.active is first, f"member {first.name} was active")
        for member in others:
            member.start()
        await self.until(lambda: self.complete, "all members were ready")

    async def watch(self, on_look: Callable[[], None]) -> None:
        """Ask all members again and again; ``on_look`` is called each time."""
        while True:
            views = await asyncio.gather(*(beside_the_loop(member.look) for member in self.all))
            self.views = {member.name: view for member, view in zip(self.all, views, strict=True)}
            on_look()
            self._looked.set()
            self._looked.clear()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so. Raises MembersFailed if it is not in time, MemberEnded if a process has ended."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not condition():
                    for member in self.all:
                        member.check()
                    await self._looked.wait()
        except TimeoutError:
            raise MembersFailed(f"within {_PATIENCE_S:g} s it was not so that {what}") from None

    async def hand_over(self, to: DemoMember) -> None:
        """Have another member be active. Raises MembersFailed or ControlSocketError."""
        request = {"command": "promote", "member": to.name}
        answer = await beside_the_loop(lambda: ask(self._control, request))
        if not answer.get("ok"):
            raise MembersFailed(f"no hand-over to {to.name}: {answer.get('error')}")

    def close(self) -> None:
        """End all processes that still run."""
        for member in self.all:
            member.kill()

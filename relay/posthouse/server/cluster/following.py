"""The link of this member to the one that it takes for the active one, and what it learns over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from posthouse.errors import PosthouseError
from posthouse.link import frames
from posthouse.link.talk import SILENCE_S, SILENT
from posthouse.server.cluster.switch import Switch
from posthouse.server.peers import Link

ANSWER_S: Final = 5.0


class NotAsked(PosthouseError):
    """The active member could not be asked, or refused; the text says why."""


class Following:
    """Handles the frames of that link."""

    def __init__(
        self, switch: Switch, *, report: Callable[[], frames.Report], on_ended: Callable[[str], None]
    ) -> None:
        """``on_ended``: there is no link, or no broker at its other end; with the address of the next, if known."""
        self.standing: frames.Standing | None = None
        """What the active member said last; None while there is no link."""
        self._switch = switch
        self._report = report
        self._on_ended = on_ended
        self._link: Link | None = None
        self._told: frames.Report | None = None
        self._answers: dict[int, asyncio.Future[str | None]] = {}
        self._asked = 0

    @property
    def linked(self) -> bool:
        """Whether there is a link."""
        return self._link is not None

    @property
    def active(self) -> str | None:
        """Id of the active member, if it is elsewhere and serves."""
        standing = self.standing
        return (
            self._link.member
            if self._link is not None and standing is not None and standing.serving
            else None
        )

    @property
    def active_is_well(self) -> bool:
        """Whether the active member says that it is ready; yes while nothing is known."""
        return self.standing is None or all(
            one.ready for one in self.standing.members if one.name == self.active
        )

    # --- what the link says

    def established(self, link: Link) -> None:
        """It is there."""
        self._link = link
        self._tell(link)

    def received(self, frame: frames.Frame) -> None:
        """A frame of the active member."""
        link = self._link
        if link is None:
            return
        match frame:
            case frames.Effects():
                self._switch.received(link, frame)
            case frames.Standing():
                self.standing = frame
                if frame.serving:
                    self._switch.to_remote(link, frame.epoch)
                    # That may have made this member ready: one that ends hands over to nobody of whom it does not know.
                    self._tell_again(link)
                else:
                    # Whom it handed over to is news only of the one that has served us until now.
                    remote = self._switch.remote
                    successor = frame.successor if remote is not None and remote.link is link else ""
                    self._switch.leave_remote(frame.reason)
                    self._on_ended(successor)
            case frames.Answer():
                waiting = self._answers.pop(frame.number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame.error)
            case _:
                pass  # of a later release

    def lost(self, why: str) -> None:
        """The link has ended."""
        self._link = None
        self.standing = None
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_result("the link to the active member was lost")
        self._answers.clear()
        self._switch.leave_remote(f"link lost: {why}", ago_s=SILENCE_S if why == SILENT else 0.0)
        self._on_ended("")

    # --- what we say

    def tell_again(self) -> None:
        """Something of us may have changed."""
        if self._link is not None:
            self._tell_again(self._link)

    def _tell(self, link: Link) -> None:
        self._told = self._report()
        link.send(self._told)

    def _tell_again(self, link: Link) -> None:
        # Never the same twice: each report is answered with a standing.
        if self._report() != self._told:
            self._tell(link)

    async def ask(self, successor: str) -> None:
        """Have the active member hand over. Raises NotAsked."""
        if self._link is None:
            raise NotAsked("there is no link to an active member")
        self._asked += 1
        number = self._asked
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._link.send(frames.Ask(number, successor))
        try:
            error = await asyncio.wait_for(answer, ANSWER_S)
        except TimeoutError:
            raise NotAsked("the active member does not answer") from None
        finally:
            self._answers.pop(number, None)
        if error is not None:
            raise NotAsked(error)

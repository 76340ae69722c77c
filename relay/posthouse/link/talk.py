"""The beginning of a link and what keeps it alive, without its bytes: one object for each end.

The dialer says ``Hello``, the listener ``Welcome`` or ``Refused``; a beginning that takes too long has failed. Then
either side pings when it has had nothing to say, and a link from which nothing comes is lost. Silence counts only while
our own loop was on time: a process that did not run has heard nothing because it did not listen.

After each input the owner sends what ``outbox`` holds, and looks at ``ended``. Times are seconds of any steady clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from msgspec import Struct

from posthouse.link.frames import (
    VERSIONS,
    Frame,
    FromDialer,
    FromListener,
    Hello,
    Ping,
    Pong,
    Refused,
    Welcome,
    decode_from_dialer,
    decode_from_listener,
)

HANDSHAKE_S: Final = 2.0
PING_AFTER_S: Final = 0.5
SILENCE_S: Final = 3.0
LATE_S: Final = 0.5
SILENT: Final = "silent"
"""Why a link has ended from which nothing was heard."""
Versions = tuple[int, int]
F = TypeVar("F", bound=Frame)


class Me(Struct, frozen=True, gc=False):
    """Who speaks."""

    relay: str
    """All members of one relay say the same."""
    member: str
    generation: int
    """Of a dialer's link; a listener's is not used."""


class _Talk(Generic[F]):
    """What both ends have in common."""

    def __init__(
        self, me: Me, now: float, versions: Versions, decode: Callable[[bytes | memoryview], F]
    ) -> None:
        self.me = me
        self.member: str | None = None
        """Who is at the other end; None until the link is established."""
        self.version = 0
        self.generation = me.generation
        self.outbox: list[Frame] = []
        """Frames to send. Whoever has sent them empties it and calls ``sent``."""
        self.ended: str | None = None
        """Why the link has ended. What is still in the outbox is sent first."""
        self.due = 0.0
        """When ``tick`` is to be called."""
        self._versions = versions
        self._decode = decode
        self._began = self._heard = self._sent = now
        self._plan()

    @property
    def established(self) -> bool:
        """Whether the beginning is over."""
        return self.member is not None

    def received(self, body: bytes | memoryview, now: float) -> F | None:
        """A frame came: what the owner has to see of it. Raises BadFrame."""
        self._heard = now
        frame = self._decode(body)
        if isinstance(frame, Pong) and self.established:
            return None
        if isinstance(frame, Ping) and self.established:
            self.outbox.append(Pong())
            return None
        if self.established and not isinstance(frame, (Hello, Welcome, Refused)):
            return frame
        self._handshake(frame)
        if self.established:
            self._plan()
        return None

    def heard(self, now: float) -> None:
        """Some bytes came, perhaps no whole frame."""
        self._heard = now

    def sent(self, now: float) -> None:
        """Something was sent."""
        self._sent = now

    def tick(self, now: float) -> None:
        """It is ``due``."""
        if now > self.due + LATE_S:
            self._began = self._heard = now
        if not self.established:
            if now >= self._began + HANDSHAKE_S:
                self.ended = f"no link was established within {HANDSHAKE_S:g} s"
        elif now >= self._heard + SILENCE_S:
            self.ended = SILENT
        elif now >= self._sent + PING_AFTER_S:
            self.outbox.append(Ping())
            self._sent = now
        self._plan()

    def _handshake(self, frame: F) -> None:
        raise NotImplementedError

    def _plan(self) -> None:
        if self.established:
            self.due = min(self._sent + PING_AFTER_S, self._heard + SILENCE_S)
        else:
            self.due = self._began + HANDSHAKE_S


class DialerTalk(_Talk[FromListener]):
    """The end that dials."""

    def __init__(self, me: Me, now: float, *, versions: Versions = VERSIONS) -> None:
        """Says ``Hello`` at once."""
        super().__init__(me, now, versions, decode_from_listener)
        self.outbox.append(Hello(versions, me.relay, me.member, me.generation))
        self.refused = False
        """Whether the listener has said no."""

    def _handshake(self, frame: FromListener) -> None:
        if self.established or not isinstance(frame, (Welcome, Refused)):
            self.ended = f"a frame out of turn: {_name(frame)}"
        elif isinstance(frame, Refused):
            self.refused = True
            self.ended = f"refused: {frame.reason}"
        elif not self._versions[0] <= frame.version <= self._versions[1]:
            self.ended = f"the listener chose version {frame.version}, which was not offered"
        else:
            self.version = frame.version
            self.member = frame.member


class ListenerTalk(_Talk[FromDialer]):
    """The end that was dialed."""

    def __init__(
        self,
        me: Me,
        now: float,
        *,
        admit: Callable[[Hello], str | None] = lambda _: None,
        versions: Versions = VERSIONS,
    ) -> None:
        """``admit``: why a dialer that could be spoken with is refused all the same, or None."""
        super().__init__(me, now, versions, decode_from_dialer)
        self._admit = admit

    def refuse(self, reason: str) -> None:
        """Say no, whatever the dialer says."""
        self.outbox.append(Refused(reason))
        self.ended = f"refused: {reason}"

    def _handshake(self, frame: FromDialer) -> None:
        if self.established or not isinstance(frame, Hello):
            self.ended = f"a frame out of turn: {_name(frame)}"
            return
        version = min(self._versions[1], frame.versions[1])
        if frame.relay != self.me.relay:
            self.refuse(f"this member belongs to relay {self.me.relay!r}, not to {frame.relay!r}")
        elif version < max(self._versions[0], frame.versions[0]):
            self.refuse(
                f"this member speaks link versions {_range(self._versions)}, not {_range(frame.versions)}"
            )
        elif frame.member == self.me.member:
            self.refuse(f"this is member {self.me.member!r} itself, or another of the same name")
        elif (reason := self._admit(frame)) is not None:
            self.refuse(reason)
        else:
            self.version = version
            self.generation = frame.generation
            self.member = frame.member
            self.outbox.append(Welcome(version, self.me.member))


def _name(frame: Frame) -> str:
    return type(frame).__name__.lower()


def _range(versions: Versions) -> str:
    return f"{versions[0]} to {versions[1]}"

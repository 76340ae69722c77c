"""What the sessions of both dialects have in common: phases, deadlines, credit, and how they meet the shell.

The shell, per connection::

    session.received(payload, now)         # one WebSocket message; then:
    if session.commands:                   # take them all, in order, as one batch for the broker
        batch, session.commands = session.commands, []
    frames = session.flush(effects, now)   # with what the broker had for it, or []: payloads to send
    session.wrote(waiting_bytes)           # once session.handed >= settings.credit_bytes, or when something waits
    if session.closing: ...                # (close code, reason): send the frames first, then close

Any input may add to ``commands`` and set ``closing``. ``next_deadline`` is when to call ``tick``.
A session that has begun with ``Open`` ends with ``Close``, once, whoever ended it. After ``closing`` is set it
takes no more input and gives no more frames than the ``flush`` that carries its last words.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from posthouse.exchange import Close, Command, Credit, Effect, Open
from posthouse.session.settings import Conditions, SessionSettings
from posthouse.wire.codec import Data
from posthouse.wire.codes import CloseCode, Code
from posthouse.wire.messages import GoawayReason


class Phase(Enum):
    """Where a session stands."""

    OPENING = "opening"
    """The client has not said who it is."""
    WAITING = "waiting"
    """It has, but no instance is active."""
    OPEN = "open"
    CLOSED = "closed"


_OPENING: Final = Phase.OPENING
_WAITING: Final = Phase.WAITING
_OPEN: Final = Phase.OPEN
_CLOSED: Final = Phase.CLOSED


class Session:
    """The frame of a session; a dialect fills in what its frames mean."""

    __slots__ = (
        "_conditions",
        "_deadline",
        "_held",
        "_held_bytes",
        "_opened",
        "_phase",
        "_settings",
        "closing",
        "commands",
        "dropped",
        "handed",
    )

    binary = False
    """Whether its frames are binary rather than text."""

    def __init__(self, settings: SessionSettings, conditions: Conditions, deadline: float) -> None:
        self._settings = settings
        self._conditions = conditions
        self._phase = _OPENING
        self._deadline: float | None = deadline
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._opened = False
        self.commands: list[Command] = []
        """Commands for the broker, in order. The shell takes the list and puts an empty one in its place."""
        self.closing: tuple[CloseCode, str] | None = None
        """Set once, when the connection has to end: close code and reason."""
        self.handed = 0
        """Bytes of ciphertext given to the transport for which the broker has had no credit yet."""
        self.dropped = 0
        """Requests that this session refused or dropped by itself, for its summary in the log."""

    @property
    def phase(self) -> Phase:
        """Where it stands."""
        return self._phase

    # --- inputs

    def received(self, data: Data, now: float) -> None:
        """The client sent a WebSocket message. ``data`` may be a view of a buffer that is used again."""
        raise NotImplementedError

    def flush(self, effects: list[Effect], now: float) -> list[bytes]:
        """Payloads for the socket: the session's own answers, then the broker's effects."""
        raise NotImplementedError

    def wrote(self, waiting_bytes: int) -> None:
        """Of all frames handed out, the transport still holds at most this many bytes.

        Credit goes back to the broker in lumps of ``credit_bytes`` or more. It never gives too much: what waits
        holds at most as much ciphertext as it has bytes.
        """
        taken = self.handed - waiting_bytes
        if taken >= self._settings.credit_bytes and self._phase is _OPEN:
            self.handed -= taken
            self.commands.append(Credit(taken))

    def activated(self, now: float) -> None:
        """An instance is active: ``conditions.epoch`` has been set."""
        if self._phase is _WAITING:
            self._enter(now)

    def goaway(
        self, reason: GoawayReason, reconnect_after_ms: tuple[int, int], alternates: list[str]
    ) -> None:
        """Tell the client, where its dialect can, that the relay is about to end this connection."""

    def next_deadline(self) -> float | None:
        """When to call ``tick`` next, on the clock of ``now``; None: not before something happens."""
        return self._deadline

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._deadline is None or now < self._deadline:
            return
        if self._phase is _WAITING:
            self._close(CloseCode.TRY_LATER, Code.NOT_ACTIVE)
        else:
            self._silent()

    def transport_closed(self) -> None:
        """The connection is gone, or the shell ends it for reasons of its own."""
        self._end()

    # --- for the dialects

    def _first_frame(self, data: Data, now: float) -> None:
        raise NotImplementedError

    def _not_open(self, data: Data, now: float) -> None:
        """What ``received`` does with a message as long as, or after, the session is not open."""
        if self._phase is _OPENING:
            self._first_frame(data, now)
        elif self._phase is _WAITING:
            self._hold(data)

    def _silent(self) -> None:
        """The client has not said who it is in time."""
        raise NotImplementedError

    def _open_command(self) -> Open:
        raise NotImplementedError

    def _greet(self, now: float) -> None:
        """The session is open: say so."""
        raise NotImplementedError

    def _admit(self, now: float) -> None:
        """The client has said who it is: open the session, or wait for an active instance."""
        if self._conditions.epoch is None:
            self._phase = _WAITING
            self._deadline = now + self._settings.active_timeout_s
            self._held = []
        else:
            self._enter(now)

    def _enter(self, now: float) -> None:
        self._phase = _OPEN
        self._deadline = None
        self._opened = True
        self.commands.append(self._open_command())
        held, self._held = self._held, None
        self._greet(now)
        for data in held or ():
            self.received(data, now)

    def _hold(self, data: Data) -> None:
        assert self._held is not None
        self._held.append(bytes(data))
        # An object's own size counts too, or many empty messages would cost nothing.
        self._held_bytes += len(data) + 64
        if self._held_bytes > self._settings.max_held_bytes:
            self._close(CloseCode.TRY_LATER, Code.NOT_ACTIVE)

    def _close(self, code: CloseCode, reason: str) -> None:
        if self.closing is None:
            self.closing = (code, reason)
        self._end()

    def _end(self) -> None:
        if self._opened:
            self._opened = False
            self.commands.append(Close())
        self._phase = _CLOSED
        self._deadline = None
        self._held = None

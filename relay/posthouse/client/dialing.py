"""Which address to dial next and when: a pure plan over several addresses of one relay. Sans-I/O.

Invariants: chance comes in as a number in [0, 1), time as seconds of the caller's clock. While an address
of this round is untried the next try comes almost at once; after a whole round in vain the wait doubles.
A connection counts as good only after ``STABLE_AFTER_S``, so that a relay that lets clients in and drops them
is not hammered. Addresses that a ``goaway`` names are tried once and not kept.

Source: docs/protocol.md 2.1 (audience), 2.3 (goaway), 2.4 (close codes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from posthouse.client.errors import InvalidURL
from posthouse.wire.audience import parse_authority
from posthouse.wire.codes import CloseCode

STABLE_AFTER_S: Final = 5.0
_NEXT_ADDRESS_WITHIN_S: Final = 0.05
_FIRST_ROUND_S: Final = 0.1
_RESTART_SPREAD_S: Final = 1.0
_OVERLOAD_S: Final = (1.0, 5.0)


def check_url(url: str) -> str:
    """The address as it was given. Raises InvalidURL."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidURL(url, str(error)) from None
    if parts.scheme not in ("ws", "wss"):
        raise InvalidURL(url, "it must begin with ws:// or wss://")
    if "@" in parts.netloc or parts.fragment:
        raise InvalidURL(url, "user names and fragments have no meaning here")
    if parse_authority(parts.netloc) is None:
        raise InvalidURL(url, "it names no host, or a port that is none")
    return url


def audience_of_url(url: str) -> str:
    """What a relay at this checked address calls itself in its challenge (docs/protocol.md 2.1)."""
    return str(parse_authority(urlsplit(url).netloc))


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial ``url`` after ``delay_s`` seconds."""

    url: str
    delay_s: float


class DialPlan:
    """Where to go next, from what happened so far."""

    def __init__(self, urls: Sequence[str], max_delay_s: float) -> None:
        if not urls:
            raise InvalidURL("", "at least one address is needed")
        self._urls = [check_url(url) for url in urls]
        self._max_delay_s = max_delay_s
        self._at = 0
        self._losses = 0
        self._welcomed_at: float | None = None
        self._alternate: str | None = None
        self._current = self._urls[0]

    @property
    def current(self) -> str:
        """The address dialled last; before the first try, the one to dial."""
        return self._current

    def welcomed(self, now: float) -> None:
        """The session is open."""
        self._welcomed_at = now

    def goaway(self, range_ms: tuple[int, int], alternates: Sequence[str], chance: float) -> float:
        """The relay will end this connection: seconds from now after which to leave it."""
        scheme = urlsplit(self._current).scheme
        usable = [url for url in alternates if _is_usable(url, scheme)]
        if usable:
            self._alternate = usable[int(chance * len(usable))]
        low, high = sorted(max(0, limit) for limit in range_ms)
        return _between((low / 1000, high / 1000), chance)

    def left(self, now: float, chance: float) -> Dial:
        """This side has waited as a goaway asked, and left: the next address, at once if this one was good."""
        if self._welcomed_at is None or now - self._welcomed_at < STABLE_AFTER_S:
            return self.lost(now, None, chance)
        self._losses = 0
        self._welcomed_at = None
        return self._go_on(0.0)

    def lost(self, now: float, close_code: int | None, chance: float) -> Dial:
        """The connection ended, or could not be made (then ``close_code`` is None)."""
        if self._welcomed_at is not None and now - self._welcomed_at >= STABLE_AFTER_S:
            self._losses = 0
        self._welcomed_at = None
        self._losses += 1
        rounds, untried = divmod(self._losses, len(self._urls))
        if untried or self._alternate is not None:
            return self._go_on(chance * _NEXT_ADDRESS_WITHIN_S)
        delay_s = min(self._max_delay_s, _FIRST_ROUND_S * 2 ** min(rounds - 1, 16)) * (0.5 + chance / 2)
        if close_code == CloseCode.RESTART:
            delay_s = max(delay_s, chance * _RESTART_SPREAD_S)
        elif close_code == CloseCode.TRY_LATER:
            delay_s = max(delay_s, _between(_OVERLOAD_S, chance))
        return self._go_on(delay_s)

    def drop_current(self) -> bool:
        """Never dial the current address again. False if no other is left."""
        if self._current not in self._urls:
            return True
        if len(self._urls) == 1:
            return False
        self._urls.remove(self._current)
        self._at = (self._at - 1) % len(self._urls)
        return True

    def _go_on(self, delay_s: float) -> Dial:
        if self._alternate is not None:
            self._current, self._alternate = self._alternate, None
        else:
            self._at = (self._at + 1) % len(self._urls)
            self._current = self._urls[self._at]
        return Dial(self._current, delay_s)


def _is_usable(url: str, scheme: str) -> bool:
    try:
        return urlsplit(check_url(url)).scheme in (scheme, "wss")
    except InvalidURL:
        return False


def _between(range_s: tuple[float, float], chance: float) -> float:
    return range_s[0] + (range_s[1] - range_s[0]) * chance

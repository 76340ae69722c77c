"""Sessions on a table: made, opened and fed without a socket; what they say comes back decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posthouse.exchange import Command, Effect, Open
from posthouse.identity import DeviceKey
from posthouse.session.settings import Conditions, SessionSettings
from posthouse.session.v2 import V2Session
from posthouse.wire.codec import MSGPACK, Codec
from posthouse.wire.codes import CloseCode
from posthouse.wire.messages import Challenge, ClientMessage, Hello, ServerMessage, Welcome

NONCE = bytes(range(32))
AUDIENCE = "relay.example:8080"
ALICE = DeviceKey(b"a" * 32)
BOB = DeviceKey(b"b" * 32)
BUCKET = "QmaGLQjHHdeZ3wKtKqHS9etMwSUDnckHnAYS6eqvAgp2Hf"
BUCKETS = [BUCKET, *(DeviceKey(bytes([n]) * 32).address for n in range(1, 20))]
"""Any well-formed multihash is a bucket."""
READER = "reader-with-16-characters"


def settings(**changes: Any) -> SessionSettings:
    """Settings of the tests; ``changes`` are fields."""
    return SessionSettings(**{"relay": "relay-id", "limits": {"max_window": 4096}, **changes})


@dataclass
class Driver:
    """A v2 session and its clock."""

    session: V2Session
    conditions: Conditions
    codec: Codec
    now: float = 0.0

    def send(self, *items: ClientMessage | dict[str, Any] | object) -> list[ServerMessage]:
        """The client sends these in one array; what the session says to it."""
        return self.send_raw(self.codec.encode_one(list(items)))  # type: ignore[arg-type]

    def send_raw(self, data: bytes) -> list[ServerMessage]:
        """The client sends one frame; what the session says to it."""
        # A view of a buffer that is used again, as the shell's is.
        buffer = bytearray(data)
        self.session.received(memoryview(buffer), self.now)
        buffer[:] = bytes(len(buffer))
        return self.said()

    def said(self, effects: Sequence[Effect] = ()) -> list[ServerMessage]:
        """What goes to the client, with these effects of the broker."""
        frames = self.session.flush(list(effects), self.now)
        assert all(len(frame) <= 2**20 for frame in frames)
        return [item for frame in frames for item in self.codec.decode_from_server(frame)]

    def commands(self) -> list[Command]:
        """The commands since the last call."""
        commands, self.session.commands = self.session.commands, []
        return commands

    def closing(self) -> tuple[CloseCode, str] | None:
        """The session's wish to end."""
        return self.session.closing


def connect(
    codec: Codec = MSGPACK, with_settings: SessionSettings | None = None, epoch: int | None = 7
) -> Driver:
    """A connection that has been sent its challenge and has said nothing."""
    conditions = Conditions(epoch=epoch, wall_offset_ms=1_000_000)
    session = V2Session(
        codec,
        with_settings or settings(),
        conditions,
        session_id="session-1",
        nonce=NONCE,
        audience=AUDIENCE,
        now=0.0,
    )
    driver = Driver(session, conditions, codec)
    assert driver.said() == [Challenge(NONCE, AUDIENCE, 1_000_000)]
    return driver


def hello(key: DeviceKey | None = None, **fields: Any) -> Hello:
    """A good hello."""
    if key is None:
        return Hello("test", **fields)
    return Hello("test", key.public_key, key.sign_hello(AUDIENCE, NONCE), **fields)


def opened(
    key: DeviceKey | None = ALICE,
    codec: Codec = MSGPACK,
    with_settings: SessionSettings | None = None,
    **fields: Any,
) -> Driver:
    """A connection past its welcome, ``Open`` taken."""
    driver = connect(codec, with_settings)
    (welcome,) = driver.send(hello(key, **fields))
    assert isinstance(welcome, Welcome)
    (command,) = driver.commands()
    assert isinstance(command, Open)
    return driver

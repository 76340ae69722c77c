"""A client of dialect v2 over one blocking socket: MessagePack, one connection, no library between it and the wire."""

from __future__ import annotations

import os
import socket
import struct
import time
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

import msgspec
from posthouse.identity import DeviceKey

Item = dict[str, Any]
OPEN_LIMIT_S = 15.0
READ_LIMIT_S = 30.0
_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_UPGRADE = (
    "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: posthouse.v2.msgpack\r\n\r\n"
)


class Closed(Exception):
    """The connection has ended, or could not be made; the text says how."""


def device_key(name: str) -> DeviceKey:
    """The same key for the same name."""
    return DeviceKey(sha256(b"a key of the benchmark: " + name.encode()).digest())


class Connection:
    """One connection that has proved its key, from the opening on."""

    def __init__(self, address: str, key: DeviceKey, limit_s: float = OPEN_LIMIT_S) -> None:
        """Connect and go as far as `welcome`. Raises Closed, also when that takes longer than `limit_s`."""
        end = time.monotonic() + limit_s
        host, _, port = address.rpartition(":")
        self._buffer = bytearray()
        self._parts = b""
        self._closed = ""
        try:
            self._socket = socket.create_connection((host, int(port)), timeout=limit_s)
        except OSError as error:
            raise Closed(error.strerror or "no connection") from None
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._write(_UPGRADE.format(address=address).encode())
            self._shake_hands(end)
            challenge = self._opening("challenge", end)
            signature = key.sign_hello(challenge["audience"], challenge["nonce"])
            self.send({"type": "hello", "client": "bench", "key": key.public_key, "signature": signature})
            self.welcome = self._opening("welcome", end)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, end: float) -> None:
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill(end - time.monotonic()):
                raise Closed("no answer to the opening")
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise Closed(head.split(b"\r\n", 1)[0].decode(errors="replace"))

    def _opening(self, kind: str, end: float) -> Item:
        """The one item that comes next. Raises Closed."""
        while time.monotonic() < end:
            for item in self.receive(end - time.monotonic()):
                if item["type"] == kind:
                    return item
                raise Closed(f"{item['type']} instead of {kind}: {item.get('code', '')}")
        raise Closed(f"no {kind} in time")

    def send(self, *items: Item) -> None:
        """One frame. Raises Closed."""
        self._frame(_BINARY, msgspec.msgpack.encode(items[0] if len(items) == 1 else items))

    def receive(self, timeout_s: float) -> list[Item]:
        """The items of the frames that come within this time; none if none do. Raises Closed."""
        end = time.monotonic() + timeout_s
        while True:
            items = self._take_frames()
            if self._closed and not items:  # what came before the close is told first
                raise Closed(self._closed)
            if items or not self._fill(end - time.monotonic()):
                return items

    @property
    def local(self) -> str:
        """Our own end of it, as HOST:PORT."""
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    def close(self) -> None:
        """End the TCP connection, without a close frame."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self, timeout_s: float) -> bool:
        """Read what there is; whether something came in time."""
        if timeout_s <= 0:
            return False
        self._socket.settimeout(timeout_s)
        try:
            data = self._socket.recv(1 << 17)
        except TimeoutError:
            return False
        except OSError as error:
            raise Closed(error.strerror or "read failed") from None
        if not data:
            raise Closed("end of stream")
        self._buffer += data
        return True

    def _take_frames(self) -> list[Item]:
        items: list[Item] = []
        while (found := self._next_frame()) is not None:
            opcode, fin, payload = found
            if opcode == _CLOSE:
                self._closed = f"close {int.from_bytes(payload[:2])} {payload[2:].decode(errors='replace')}"
                break
            if opcode == _PING:
                self._frame(_PONG, payload)
            elif opcode in (_BINARY, _CONTINUATION):
                self._parts += payload
                if fin:
                    decoded = msgspec.msgpack.decode(self._parts)
                    items += decoded if isinstance(decoded, list) else [decoded]
                    self._parts = b""
        return items

    def _next_frame(self) -> tuple[int, bool, bytes] | None:
        """The next whole frame that was read: opcode, whether it is the last of its message, payload."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1], 2
        if length == 126:
            start = 4
        elif length == 127:
            start = 10
        if len(buffer) < start:
            return None
        if start > 2:
            length = int.from_bytes(buffer[2:start])
        if len(buffer) < start + length:
            return None
        opcode, fin, payload = buffer[0] & 0x0F, bool(buffer[0] & 0x80), bytes(buffer[start : start + length])
        del buffer[: start + length]
        return opcode, fin, payload

    def _frame(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, length)
        mask = os.urandom(4)
        pad = (mask * (length // 4 + 1))[:length]
        self._write(head + mask + (int.from_bytes(payload) ^ int.from_bytes(pad)).to_bytes(length))

    def _write(self, data: bytes) -> None:
        self._socket.settimeout(READ_LIMIT_S)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Closed(error.strerror or "write failed") from None


def take_all(address: str, key: DeviceKey, limit_s: float = READ_LIMIT_S) -> set[str]:
    """Everything that waits for a key's owner, acknowledged: the ids. Raises Closed."""
    ids: set[str] = set()
    end = time.monotonic() + limit_s
    with Connection(address, key) as connection:
        connection.send({"type": "subscribe", "ref": 1, "live": False})
        awaited = "caught_up"
        while time.monotonic() < end:
            for item in connection.receive(end - time.monotonic()):
                if item["type"] == "message":
                    ids.add(item["id"])
                    connection.send({"type": "ack", "ids": [item["id"]]})
                elif item["type"] == awaited == "caught_up":
                    awaited = "pong"  # what comes after the acks has taken them
                    connection.send({"type": "ping", "t": 1})
                elif item["type"] == awaited == "pong":
                    return ids
    raise Closed("the backlog did not come to its end in time")

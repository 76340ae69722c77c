"""A WebSocket client by hand over a blocking socket: the handshake, frames, masks, closes (RFC 6455).

It shares no code with the relay, and it can do what a library would refuse: tear frames, lie about lengths, leave the
mask out. It holds the relay to the rules for servers: no mask, no reserved bits, whole close frames.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha1
from types import TracebackType
from typing import Self

TIMEOUT_S = 10.0
"""How long a test waits for something that must come."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
ABNORMAL = 1006
"""Stands for an end without a close frame."""


class Closed(Exception):
    """The relay has closed the connection: code and reason of its close frame, or ABNORMAL."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The handshake was answered with an HTTP status other than 101."""

    def __init__(self, status: int, head: str) -> None:
        super().__init__(status, head)
        self.status = status
        self.head = head


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """One frame as a client sends it."""
    length = len(payload)
    head = bytearray([(0x80 if fin else 0) | reserved << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head.append(mask_bit | length)
    elif length < 1 << 16:
        head += struct.pack(">BH", mask_bit | 126, length)
    else:
        head += struct.pack(">BQ", mask_bit | 127, length)
    if not masked:
        return bytes(head) + payload
    mask = os.urandom(4)
    key = (mask * (length // 4 + 1))[:length]
    return bytes(head) + mask + (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(length)


def request_head(
    authority: str, protocols: Sequence[str] = (), path: str = "/", headers: Sequence[str] = ()
) -> bytes:
    """The head of an opening request, with a fixed key: enough where the answer is not looked at closely."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {authority}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *([f"Sec-WebSocket-Protocol: {', '.join(protocols)}"] if protocols else []),
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class WireSocket:
    """One connection. Pings are answered unless `auto_pong` is false; pongs are counted."""

    def __init__(
        self,
        port: int,
        *,
        protocols: Sequence[str] = (),
        path: str = "/",
        authority: str | None = None,
        headers: Sequence[str] = (),
        receive_buffer_bytes: int | None = None,
    ) -> None:
        """Connect and shake hands. Raises Refused."""
        self.authority = authority or f"127.0.0.1:{port}"
        self.auto_pong = True
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self._buffer = bytearray()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer_bytes is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            self._socket.settimeout(TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.connect(("127.0.0.1", port))
            self.response = self._shake_hands(protocols, path, headers)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, protocols: Sequence[str], path: str, headers: Sequence[str]) -> dict[str, str]:
        self._socket.sendall(request_head(self.authority, protocols, path, headers))
        while b"\r\n\r\n" not in self._buffer:
            self._fill(time.monotonic() + TIMEOUT_S)
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        first, *lines = head.decode().split("\r\n")
        status = int(first.split(" ")[1])
        if status != 101:
            raise Refused(status, head.decode())
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        accept = b64encode(
            sha1(b"dGhlIHNhbXBsZSBub25jZQ==" + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        )
        assert found["sec-websocket-accept"] == accept.decode()
        return found

    # --- out

    def send_bytes(self, data: bytes) -> None:
        """Raw bytes, whole frames or not. What a closing relay no longer takes is not an error here."""
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send_frame(self, opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True) -> None:
        """One frame."""
        self.send_bytes(frame(opcode, payload, fin=fin, masked=masked))

    def send_text(self, text: str) -> None:
        """One text message."""
        self.send_frame(TEXT, text.encode())

    def send_some(self, data: bytes) -> int:
        """Send whole frames as long as the relay takes them within a second; how much it took, 0 if it has ended
        the connection or takes no more."""
        self._socket.settimeout(1.0)
        sent = 0
        try:
            while sent < len(data):
                sent += self._socket.send(data[sent:])
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            return 0
        return sent

    # --- in

    def _fill(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("nothing came")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed(ABNORMAL, "")
        self._buffer += data

    def read_frame(self, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes, bool]:
        """The next frame, of any kind: opcode, payload, whether it is the last of its message. Raises
        TimeoutError, and Closed when the stream ends without a close frame."""
        deadline = time.monotonic() + timeout_s
        buffer = self._buffer
        while True:
            parsed = self._parse()
            if parsed is not None:
                return parsed
            self._fill(deadline)
            assert self._buffer is buffer

    def _parse(self) -> tuple[int, bytes, bool] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        assert not buffer[0] & 0x70, "a server of ours sets no reserved bits"
        assert not buffer[1] & 0x80, "a server does not mask"
        length, start = buffer[1] & 0x7F, 2
        if length == 126:
            start = 4
            if len(buffer) < start:
                return None
            (length,) = struct.unpack_from(">H", buffer, 2)
            assert length >= 126
        elif length == 127:
            start = 10
            if len(buffer) < start:
                return None
            (length,) = struct.unpack_from(">Q", buffer, 2)
            assert length >= 1 << 16
        end = start + length
        if len(buffer) < end:
            return None
        opcode, fin = buffer[0] & 0x0F, bool(buffer[0] & 0x80)
        payload = bytes(buffer[start:end])
        del buffer[:end]
        return opcode, payload, fin

    def read_message(self, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
        """The next whole message: opcode and payload. Raises Closed, TimeoutError."""
        deadline = time.monotonic() + timeout_s
        kind, parts = 0, b""
        while True:
            opcode, payload, fin = self.read_frame(deadline - time.monotonic())
            if opcode == PING:
                self.pings.append(payload)
                if self.auto_pong:
                    self.send_frame(PONG, payload)
            elif opcode == PONG:
                self.pongs.append(payload)
            elif opcode == CLOSE:
                self._socket.settimeout(TIMEOUT_S)
                self.send_frame(CLOSE, payload[:2])
                code = int.from_bytes(payload[:2]) if payload else 1005
                raise Closed(code, payload[2:].decode())
            else:
                kind, parts = kind or opcode, parts + payload
                if fin:
                    return kind, parts

    def read_text(self, timeout_s: float = TIMEOUT_S) -> str:
        """The next message, which is text. Raises Closed, TimeoutError."""
        opcode, payload = self.read_message(timeout_s)
        assert opcode == TEXT
        return payload.decode()

    def wait_closed(self, timeout_s: float = TIMEOUT_S) -> Closed:
        """How the relay closes the connection; messages before it are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.read_message(deadline - time.monotonic())
            except Closed as closed:
                return closed

    def wait_end(self, timeout_s: float = TIMEOUT_S) -> None:
        """Until the relay has ended the TCP connection too."""
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self._fill(deadline)
        except Closed:
            pass

    def ping(self, payload: bytes = b"x") -> None:
        """A WebSocket ping."""
        self.send_frame(PING, payload)

    def wait_pong(self, payload: bytes = b"x", timeout_s: float = TIMEOUT_S) -> list[str]:
        """Until the pong of that ping has come; the text messages that came before it."""
        deadline = time.monotonic() + timeout_s
        seen: list[str] = []
        while True:
            opcode, data, _ = self.read_frame(deadline - time.monotonic())
            if opcode == PONG and data == payload:
                return seen
            assert opcode in (TEXT, PONG), (opcode, data)
            if opcode == TEXT:
                seen.append(data.decode())

    # --- the end

    def close(self) -> None:
        """End the TCP connection, without a close frame."""
        self._socket.close()

    def shut_output(self) -> None:
        """Send no more: the relay reads the end of the stream."""
        self._socket.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

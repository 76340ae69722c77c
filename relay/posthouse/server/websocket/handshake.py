"""The HTTP side of a connection: one request in, one response out, by websockets' sans-I/O ServerProtocol.

A request head is collected first and looked at when it is complete, so that a half-open connection costs its bytes
and nothing more. Nothing of the library outlives the answer: its protocol object is a cycle (its parser is a running
generator of itself), and 3 KiB a connection would wait for the cycle collector, so the cycle is broken by hand.
permessage-deflate and every other extension are left out by offering none.
"""

from __future__ import annotations

import email.utils
import http
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from posthouse.server.websocket.interface import Choose, Information, Refusal, RequestInfo

_END_OF_HEAD: Final = b"\r\n\r\n"
_HAS_BODY: Final = re.compile(rb"\r\n(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE).search
_REQUEST_LINE: Final = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.[01]\r\n").match

# The library logs each opening and refusal as information; the server has counters and lines of its own for them.
_quiet = logging.getLogger("posthouse.handshake")
_quiet.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The connection becomes a WebSocket once `response` is written."""

    response: bytes
    request: RequestInfo


@dataclass(frozen=True, slots=True)
class Answered:
    """The connection ends with `response`, an HTTP answer of this status."""

    response: bytes
    status: int


class RequestHead:
    """Collects the head of a request from as many reads as it takes."""

    __slots__ = ("_data", "_limit")

    def __init__(self, max_bytes: int) -> None:
        self._limit = max_bytes
        self._data: bytearray | None = None

    def feed(self, data: memoryview) -> tuple[bytes | None, int]:
        """The whole head, or None while it is incomplete, and how much of `data` belongs to it.

        Raises ValueError when the head is longer than the limit.
        """
        held = self._data
        if held is None:
            held = self._data = bytearray()
        before = len(held)
        held += data[: self._limit + 1 - before]
        end = held.find(_END_OF_HEAD, max(0, before - len(_END_OF_HEAD) + 1))
        if end >= 0:
            end += len(_END_OF_HEAD)
            if end <= self._limit:
                return bytes(held[:end]), end - before
        if len(held) > self._limit:
            raise ValueError("request head too long")
        return None, len(data)

    @property
    def is_empty(self) -> bool:
        """Whether the peer has said nothing at all."""
        return not self._data


def answer(head: bytes, choose: Choose, information: Information) -> Accepted | Answered:
    """Answer a complete request head. What the callbacks raise is raised."""
    protocol = _Handshake(choose)
    try:
        protocol.receive_data(head)
        events = protocol.events_received()
        if not events:
            return _answer_unreadable(head, protocol)
        request = events[0]
        assert isinstance(request, Request)
        return _answer_request(request, protocol, information)
    finally:
        protocol.parser.close()
        protocol.__dict__.clear()


def http_answer(status: int, text: str) -> Answered:
    """A short answer for people, after which the connection ends."""
    return _answered(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


class _Handshake(ServerProtocol):
    def __init__(self, choose: Choose) -> None:
        super().__init__(logger=_quiet)
        self.choose = choose
        self.info: RequestInfo | None = None
        self.refusal: Refusal | None = None
        self.failure: Exception | None = None

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        assert self.info is not None
        self.info = replace(self.info, offered=tuple(subprotocols))
        try:
            chosen = self.choose(self.info)
        except Exception as error:
            # The library would make an answer of it; it belongs to whoever runs the connection.
            self.failure = error
            raise NegotiationError("no choice") from error
        if isinstance(chosen, Refusal):
            self.refusal = chosen
            raise NegotiationError(chosen.text)
        self.info = replace(self.info, subprotocol=chosen)
        return None if chosen is None else Subprotocol(chosen)


def _answer_request(request: Request, protocol: _Handshake, information: Information) -> Accepted | Answered:
    hosts = request.headers.get_all("Host")
    if len(hosts) > 1:
        return http_answer(400, "More than one Host header.")
    info = RequestInfo(request.method, request.path, hosts[0] if hosts else "")
    if not any("websocket" in value.lower() for value in request.headers.get_all("Upgrade")):
        if request.method == "GET" and request.path.partition("?")[0] == "/":
            return _answered(200, information(info), "application/json")
        return _upgrade_required()
    protocol.info = info
    response = protocol.accept(request)
    if protocol.failure is not None:
        raise protocol.failure
    if protocol.refusal is not None:
        return http_answer(protocol.refusal.status, protocol.refusal.text)
    if response.status_code != 101:
        return Answered(response.serialize(), response.status_code)
    return Accepted(response.serialize(), protocol.info)


def _answer_unreadable(head: bytes, protocol: _Handshake) -> Answered:
    responses = [data for data in protocol.data_to_send() if data]
    if responses:  # the library has an answer of its own: a line too long, too many headers
        return Answered(responses[0], int(responses[0].split(b" ", 2)[1]))
    if _REQUEST_LINE(head) and _HAS_BODY(head):  # the library reads no requests with a body
        return _upgrade_required()
    return http_answer(400, "This is not an HTTP request that this server understands.")


def _upgrade_required() -> Answered:
    text = b"This is a WebSocket server; GET / says more about it.\n"
    return _answered(426, text, "text/plain; charset=utf-8", Upgrade="websocket")


def _answered(status: int, body: bytes, content_type: str, **headers: str) -> Answered:
    all_headers = Headers(
        Date=email.utils.formatdate(usegmt=True),
        Connection="close",
        **headers,
    )
    all_headers["Content-Type"] = content_type
    all_headers["Content-Length"] = str(len(body))
    response = Response(status, http.HTTPStatus(status).phrase, all_headers, body)
    return Answered(response.serialize(), status)

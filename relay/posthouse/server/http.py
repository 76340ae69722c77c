"""The metrics port: a few documents for probes and scrapers, read-only, by websockets' own HTTP server.

Every path is a function without arguments, called for each request; none of them may take long.
"""

from __future__ import annotations

import http
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
_REQUEST_TIMEOUT_S: Final = 5.0

# Each answer is an opening handshake that was refused, as the library sees it, and would be logged.
_quiet = logging.getLogger("posthouse.metrics_port")
_quiet.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Document:
    """An answer."""

    body: bytes
    content_type: str = TEXT
    status: int = 200


Pages = Mapping[str, Callable[[], Document]]
"""Documents by path."""


async def serve_pages(sockets: Sequence[socket.socket], pages: Pages) -> list[Server]:
    """Answer GET and HEAD on these listening sockets until the servers are closed."""

    def process_request(_connection: ServerConnection, request: Request) -> Response:
        return answer(request.method, request.path, pages)

    return [
        await serve(
            _no_websocket,
            sock=sock,
            process_request=process_request,
            server_header=None,
            compression=None,
            open_timeout=_REQUEST_TIMEOUT_S,
            logger=_quiet,
        )
        for sock in sockets
    ]


def answer(method: str, target: str, pages: Pages) -> Response:
    """The answer to a request; a page that raises is a 500 by the library, and logged."""
    page = pages.get(target.partition("?")[0])
    if page is None:
        return _response(Document(b"not found; there are: " + " ".join(pages).encode() + b"\n", status=404))
    if method not in ("GET", "HEAD"):
        response = _response(Document(b"only GET and HEAD\n", status=405))
        response.headers["Allow"] = "GET, HEAD"
        return response
    response = _response(page())
    if method == "HEAD":
        response.body = b""
    return response


def _response(document: Document) -> Response:
    headers = Headers()
    headers["Content-Type"] = document.content_type
    headers["Content-Length"] = str(len(document.body))
    headers["Cache-Control"] = "no-store"
    headers["Connection"] = "close"
    return Response(document.status, http.HTTPStatus(document.status).phrase, headers, document.body)


async def _no_websocket(_connection: ServerConnection) -> None:
    raise AssertionError("every request is answered before there is a WebSocket")

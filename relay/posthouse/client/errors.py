"""What the client raises. Each error says whether the sender should take another route: ``fallback``.

    PosthouseError
    └── PosthouseClientError
        ├── Undeliverable                            nobody took it and the relay keeps nothing
        ├── Rejected                                 the relay refused the message
        ├── NoResult (also TimeoutError)             nothing heard within the caller's time limit
        ├── Refused                                  the relay refused another request (subscribe, status)
        ├── ClientClosed                             the caller ended the client
        ├── InvalidURL (also ValueError)             an address that is no relay's
        ├── InvalidKeyFile (also ValueError)         a key file that holds no usable key
        └── ConnectionFailed (also ConnectionError)  no connection, and none will be tried again
            ├── AuthenticationFailed                 close 4501
            │   └── AudienceMismatch                 the relay names itself otherwise than it was dialled
            ├── Banned                               close 4502
            ├── ProtocolViolation                    close 4503 or 4504, or an answer that makes no sense
            └── Superseded                           close 4505: too many connections of this key

Source: docs/protocol.md 2.3 and 2.4.
"""

from __future__ import annotations

from posthouse.errors import PosthouseError


class PosthouseClientError(PosthouseError):
    """Base of the client's errors. ``fallback``: the message is not with the relay, use the OFFLINE route."""

    fallback: bool = True


class Undeliverable(PosthouseClientError):
    """No owned reader took the message, and the relay keeps nothing."""

    def __init__(self, id: str, detail: str | None = None) -> None:
        super().__init__(id, detail)
        self.id = id
        self.detail = detail

    def __str__(self) -> str:
        return _line("undeliverable: no reader took the message and the relay keeps nothing", self.detail)


class Rejected(PosthouseClientError):
    """The relay refused the message. ``code`` says why; worth another try after ``retry_after_ms`` if given."""

    def __init__(
        self,
        id: str,
        code: str,
        detail: str | None = None,
        retry_after_ms: int | None = None,
        fallback: bool = True,
    ) -> None:
        super().__init__(id, code, detail, retry_after_ms, fallback)
        self.id = id
        self.code = code
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.fallback = fallback

    def __str__(self) -> str:
        later = f"try again in {self.retry_after_ms} ms" if self.retry_after_ms is not None else None
        return _line(f"rejected: {self.code}", self.detail, later)


class NoResult(PosthouseClientError, TimeoutError):
    """Nothing was heard within ``timeout_s``; the relay may or may not have the message (the id tells later)."""

    def __init__(self, timeout_s: float, detail: str | None = None) -> None:
        super().__init__(timeout_s, detail)
        self.timeout_s = timeout_s
        self.detail = detail

    def __str__(self) -> str:
        return _line(f"no result within {self.timeout_s:g} s", self.detail)


class Refused(PosthouseClientError):
    """The relay refused a request that is not a publish."""

    fallback = False

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return _line(f"refused: {self.code}", self.detail)


class ClientClosed(PosthouseClientError):
    """The caller ended the client; what had no result by then is not with the relay for certain."""

    def __str__(self) -> str:
        return "the client is closed"


class InvalidURL(PosthouseClientError, ValueError):
    """A text is no ``ws://`` or ``wss://`` address of a relay."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url = url
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.url!r} is no address of a relay: {self.problem}"


class InvalidKeyFile(PosthouseClientError, ValueError):
    """A key file cannot be used. ``problem`` says why, never with the key."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class ConnectionFailed(PosthouseClientError, ConnectionError):
    """The client has given up connecting. ``code`` is the relay's word for it, if it said one."""

    def __init__(self, detail: str, code: str | None = None) -> None:
        super().__init__(detail, code)
        self.detail = detail
        self.code = code

    def __str__(self) -> str:
        return _line(self.detail, self.code)


class AuthenticationFailed(ConnectionFailed):
    """The relay does not accept this key, or wants one."""


class AudienceMismatch(AuthenticationFailed):
    """The relay wants a signature for another name than the one dialled: nothing was signed."""

    def __init__(self, audience: str, expected: str) -> None:
        super().__init__(f"the relay calls itself {audience!r}, expected {expected!r}")
        self.audience = audience
        self.expected = expected
        self.args = (audience, expected)


class Banned(ConnectionFailed):
    """The relay serves this client no more."""


class ProtocolViolation(ConnectionFailed):
    """One side did not speak the protocol."""


class Superseded(ConnectionFailed):
    """The same key has opened more connections than the relay allows; this was the oldest."""


def _line(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)

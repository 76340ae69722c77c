"""`posthouse status`: what a running relay says of itself on its metrics port."""

import http.client
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import click

from posthouse.errors import PosthouseError

_TIMEOUT_S = 5.0


class StatusUnavailable(PosthouseError):
    """No relay answered, or something that is none."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url = url
        self.problem = problem

    def __str__(self) -> str:
        return f"no status from {self.url}: {self.problem}"


@click.command(name="status")
@click.option(
    "--url", default="http://127.0.0.1:9090", show_default=True, help="Where the relay serves its metrics."
)
@click.option("--json", "as_json", is_flag=True, help="Print the relay's own document.")
def command(url: str, as_json: bool) -> None:
    """Show role, epoch, store and connections of a running relay. Ends with 1 when none answers."""
    status = _fetch(url)
    click.echo(json.dumps(status, indent=2) if as_json else "\n".join(_lines(status)))


def _fetch(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    try:
        if parts.scheme != "http" or not parts.hostname:
            raise StatusUnavailable(url, "it must be http://HOST:PORT")
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 9090, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/status")
            response = connection.getresponse()
            body = response.read(2**20)
        finally:
            connection.close()
        if response.status != 200:
            raise StatusUnavailable(url, f"HTTP {response.status}")
        status = json.loads(body)
    except (OSError, http.client.HTTPException) as error:
        raise StatusUnavailable(url, getattr(error, "strerror", None) or str(error) or "no answer") from None
    except ValueError:
        raise StatusUnavailable(url, "the answer is not JSON") from None
    if not isinstance(status, dict):
        raise StatusUnavailable(url, "the answer is not a status document")
    return status


def _lines(fields: dict[str, Any], prefix: str = "") -> list[str]:
    """The document as aligned lines; what is nested gets its path as a name."""
    lines: list[str] = []
    for name, value in fields.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            lines += [_pair(prefix + name, _in_one_line(item)) for item in value]
        else:
            lines.append(_pair(prefix + name, _text(name, value)))
    return lines


def _in_one_line(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(name, value)}" for name, value in fields.items())


def _pair(name: str, text: str) -> str:
    return f"{name:<20} {text}"


def _text(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("since", "at") and isinstance(value, int):
        return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "-"
    return str(value)

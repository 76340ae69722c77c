"""Structured logs: one line an event on standard error, as JSON or for a person's eyes.

Events are constant lower-case phrases with fields; ids may be fields, payloads and keys never. Records of the
standard library's `logging` (asyncio, websockets) come out in the same form. Importing this sets nothing up: a
program that uses the client keeps its own logging.
"""

import logging
import sys
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

_NUMBERS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(level: LogLevel = "info", log_format: LogFormat = "auto", stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for this process; the last call wins.

    `auto` means `console` on a terminal and `json` elsewhere; `stream` is standard error unless given.
    """
    stream = sys.stderr if stream is None else stream
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    stamping: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    rendering = _json_rendering() if as_json else _console_rendering(colors=stream.isatty())
    structlog.configure(
        processors=[*stamping, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        # Loggers must hear of a new level; no line is written often enough to feel the difference.
        cache_logger_on_first_use=False,
    )
    _route_standard_library(_NUMBERS[level], stamping, rendering, stream)


def _route_standard_library(
    level: int, stamping: list[Processor], rendering: list[Processor], stream: TextIO
) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*stamping, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _json_rendering() -> list[Processor]:
    # Local variables would put payloads and keys into the log.
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(transformer), _first_things_first, _as_json_line]


def _console_rendering(*, colors: bool) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )
    return [renderer]


def _first_things_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the three fields that every line has in front, so that a page of lines can be read down a column."""
    head: EventDict = {"time": event.pop("time"), "level": event.pop("level"), "event": event.pop("event")}
    head.update(event)
    return head


def _as_json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=_plain).decode()


def _plain(value: Any) -> Any:
    """What JSON has no form for: paths, exceptions and the like are shown by their text."""
    return str(value)

"""Log lines: one JSON object each, only those that matter, whoever wrote them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from posthouse import logs


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_fields() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger().info("connection closed", session="s1", code=4001, where=object)
    (line,) = lines(stream)
    assert list(line)[:3] == ["time", "level", "event"]
    assert line["time"].endswith("Z")
    assert (line["level"], line["event"], line["session"], line["code"]) == (
        "info",
        "connection closed",
        "s1",
        4001,
    )


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    log = structlog.get_logger()
    log.info("quiet")
    logging.getLogger("asyncio").info("quiet too")
    log.warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_the_standard_library_writes_the_same_lines() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("asyncio").warning("took %d ms", 7)
    (line,) = lines(stream)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "took 7 ms", "asyncio")


@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("any")])
def test_an_exception_stays_on_its_line(log: Any) -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("task failed")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert all("locals" not in frame for frame in line["exception"][0]["frames"])


def test_a_terminal_gets_readable_lines_and_a_file_gets_json() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
        logs.configure("info", "auto", stream)
        structlog.get_logger().info("serving", port=8080)
        assert stream.getvalue().startswith("{") is is_json
        assert "serving" in stream.getvalue()
        structlog.reset_defaults()


def test_console_form_without_a_terminal_has_no_colours() -> None:
    stream = io.StringIO()
    logs.configure("info", "console", stream)
    structlog.get_logger().info("serving", port=8080)
    assert "\x1b" not in stream.getvalue()
    assert "port=8080" in stream.getvalue()

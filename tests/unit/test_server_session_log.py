"""The line of each session in the log, and the bound on such lines."""

from types import SimpleNamespace
from typing import Any, cast

from posthouse.server.session_log import BURST_LINES, LINES_PER_S, SessionLog
from posthouse.session.dialect import Dialect
from structlog.testing import capture_logs


def client(**fields: Any) -> Any:
    given = {"dialect": Dialect.V2_JSON, "since": 100.0, "received_count": 3, "sent_count": 4}
    return cast(Any, SimpleNamespace(conversation=SimpleNamespace(dropped=1), **(given | fields)))


def test_a_line_sums_the_session_up() -> None:
    with capture_logs() as lines:
        SessionLog(lambda: 102.5).ended(client(), 1000)
    assert lines == [
        {
            "log_level": "info",
            "event": "session ended",
            "dialect": "posthouse.v2.json",
            "seconds": 2.5,
            "frames_in": 3,
            "frames_out": 4,
            "code": 1000,
            "refused": 1,
        }
    ]


def test_a_flood_of_sessions_is_bounded_and_what_is_left_out_is_counted() -> None:
    now = [100.0]
    log = SessionLog(lambda: now[0])
    with capture_logs() as lines:
        for _ in range(int(BURST_LINES) + 1000):
            log.ended(client(), 1006)
        assert len(lines) == BURST_LINES
        now[0] += 1
        for _ in range(1000):
            log.ended(client(), 1006)
    assert len(lines) == BURST_LINES + LINES_PER_S
    assert lines[int(BURST_LINES)]["lines_left_out"] == 1000
    assert "lines_left_out" not in lines[-1]

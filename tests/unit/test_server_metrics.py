"""The metrics page: complete, from plain integers, and in the form that Prometheus reads."""

from collections import Counter
from typing import Any

import pytest
from posthouse.broker.counters import Counters
from posthouse.server.http import Document, answer
from posthouse.server.metrics import CommitTimes, MetricsPage
from posthouse.server.snapshot import Snapshot
from posthouse.server.websocket.endpoint import Counts
from prometheus_client.parser import text_string_to_metric_families


def snapshot(**changes: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "role": "active",
        "epoch": 7,
        "active": "m",
        "members": [],
        "last_handover": None,
        "not_ready": None,
        "since_ms": 1,
        "relay": "r",
        "member": "m",
        "store_url": "memory:",
        "store_durable": False,
        "store_healthy": True,
        "times_fenced": 0,
        "store_messages": 3,
        "store_bytes": 30,
        "disk_free_bytes": None,
        "lease_kind": "none",
        "lease_held": True,
        "hosted_sessions": 0,
        "connections": 2,
        "sessions": {"legacy": 2},
        "half_open": 0,
        "overloaded": False,
        "memory_limit_bytes": 100,
        "counts": Counts(),
        "refused": {},
        "counters": Counters(),
    }
    return Snapshot(**{**fields, **changes})


def samples(found: Snapshot, times: CommitTimes | None = None) -> dict[str, float]:
    page = MetricsPage(lambda: found, times or CommitTimes())()
    assert page.content_type.startswith("text/plain; version=0.0.4")
    return {
        f"{sample.name}{sorted(sample.labels.items()) if sample.labels else ''}": sample.value
        for family in text_string_to_metric_families(page.body.decode())
        for sample in family.samples
    }


def test_every_counter_of_the_broker_is_shown() -> None:
    before = samples(snapshot())
    for name in Counters.__slots__:
        counters = Counters()
        if isinstance(getattr(counters, name), Counter):
            getattr(counters, name)["code"] = 5
        else:
            setattr(counters, name, 5)
        after = samples(snapshot(counters=counters))
        changed = {key for key in after if after[key] != before.get(key) and key.startswith("posthouse_")}
        assert changed, name
        assert all(after[key] == 5 for key in changed), name


def test_everything_of_ours_has_our_name_and_the_rest_is_the_process() -> None:
    names = samples(snapshot())
    assert all(name.startswith(("posthouse_", "process_", "python_info")) for name in names)


def test_refusals_of_sessions_and_of_the_broker_add_up() -> None:
    counters = Counters()
    counters.rejected["quota"] = 2
    refused = {("v2", "quota"): 1, ("legacy", "quota"): 4, ("v2", "invalid"): 3}
    found = samples(snapshot(counters=counters, refused=refused))
    assert found["posthouse_rejected_total[('code', 'quota')]"] == 7
    assert found["posthouse_rejected_total[('code', 'invalid')]"] == 3
    assert found["posthouse_results_total[('status', 'rejected')]"] == 2


def test_without_a_broker_the_rest_is_still_shown() -> None:
    found = samples(snapshot(counters=None, role="draining", not_ready="draining", epoch=0))
    assert found["posthouse_role[('role', 'draining')]"] == 1
    assert found["posthouse_ready"] == 0
    assert "posthouse_published_total" not in found


def test_commit_times_are_a_histogram() -> None:
    times = CommitTimes()
    for seconds in (0.0001, 0.001, 0.0011, 99.0):
        times.took(seconds)
    found = samples(snapshot(), times)
    assert found["posthouse_commit_seconds_bucket[('le', '0.0005')]"] == 1
    assert found["posthouse_commit_seconds_bucket[('le', '0.001')]"] == 2
    assert found["posthouse_commit_seconds_bucket[('le', '0.002')]"] == 3
    assert found["posthouse_commit_seconds_bucket[('le', '5.0')]"] == 3
    assert found["posthouse_commit_seconds_bucket[('le', '+Inf')]"] == 4
    assert found["posthouse_commit_seconds_count"] == 4
    assert found["posthouse_commit_seconds_sum"] == pytest.approx(99.0022)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/page", 200),
        ("HEAD", "/page?x", 200),
        ("PUT", "/page", 405),
        ("GET", "/pag", 404),
        ("PUT", "*", 404),
    ],
)
def test_pages_are_answered_by_path_and_method(method: str, target: str, status: int) -> None:
    response = answer(method, target, {"/page": lambda: Document(b"hello")})
    assert response.status_code == status
    assert response.headers["Connection"] == "close"
    if status == 200:
        assert response.headers["Content-Length"] == "5"
        assert response.body == (b"hello" if method == "GET" else b"")


def test_brokers_that_another_promotion_ended_are_counted_with_or_without_one_now() -> None:
    for counters in (None, Counters()):
        assert samples(snapshot(times_fenced=3, counters=counters))["posthouse_fenced_total"] == 3

"""Where a client goes next: every address soon, no relay hammered, no advice of the relay ignored."""

import pytest
from posthouse.client.dialing import STABLE_AFTER_S, DialPlan, audience_of_url, check_url
from posthouse.client.errors import InvalidURL
from posthouse.wire.codes import CloseCode

A, B, C = "ws://a:1", "ws://b:1", "ws://c:1"


@pytest.mark.parametrize(
    ("url", "audience"),
    [
        ("ws://Relay.Example:8080/x", "relay.example:8080"),
        ("ws://relay.example", "relay.example"),
        ("ws://relay.example:80", "relay.example"),
        ("wss://relay.example:443/", "relay.example"),
        ("wss://relay.example:80", "relay.example"),
        ("ws://[::1]:8080", "[::1]:8080"),
        ("wss://[2001:DB8::0:1]", "[2001:db8::1]"),
    ],
)
def test_the_audience_is_the_host_and_port_dialled(url: str, audience: str) -> None:
    assert audience_of_url(check_url(url)) == audience


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay:8080",
        "http://relay",
        "ws://",
        "ws://host:99999",
        "ws://me:x@host",
        "ws://host#f",
        "ws://[::",
    ],
)
def test_what_is_no_address_of_a_relay_is_named(url: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        DialPlan([url], 30)
    assert repr(url) in str(caught.value)


def test_without_addresses_there_is_no_plan() -> None:
    with pytest.raises(InvalidURL):
        DialPlan([], 30)


def test_all_addresses_are_tried_at_once_before_the_first_wait() -> None:
    plan = DialPlan([A, B, C], 30)
    dials = [plan.lost(0.0, None, 0.999) for _ in range(4)]
    assert [dial.url for dial in dials] == [B, C, A, B]
    assert [dial.delay_s < 0.05 for dial in dials] == [True, True, False, True]


def test_waits_double_up_to_the_limit_and_never_all_at_the_same_moment() -> None:
    plan = DialPlan([A], 2.0)
    low = [plan.lost(0.0, None, 0.0).delay_s for _ in range(8)]
    plan = DialPlan([A], 2.0)
    high = [plan.lost(0.0, None, 1.0).delay_s for _ in range(8)]
    assert low == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
    assert high == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])


def test_a_thousand_losses_are_no_overflow() -> None:
    plan = DialPlan([A], 30.0)
    for _ in range(5000):
        dial = plan.lost(0.0, None, 1.0)
    assert dial.delay_s == 30.0


def test_a_connection_that_lasted_starts_the_waits_anew() -> None:
    plan = DialPlan([A], 30)
    for _ in range(6):
        plan.lost(0.0, None, 0.5)
    plan.welcomed(10.0)
    assert plan.lost(10.0 + STABLE_AFTER_S, CloseCode.GOING_AWAY, 0.0).delay_s == 0.05


def test_a_relay_that_welcomes_and_drops_is_not_hammered() -> None:
    plan = DialPlan([A], 30)
    delays = []
    for turn in range(6):
        plan.welcomed(float(turn))
        delays.append(plan.lost(turn + 0.1, 1006, 0.0).delay_s)
    assert delays == sorted(delays)
    assert delays[-1] > 1.0


def test_a_restart_of_the_only_relay_spreads_its_clients_over_a_second() -> None:
    plan = DialPlan([A], 30)
    plan.welcomed(0.0)
    assert plan.lost(100.0, CloseCode.RESTART, 0.9).delay_s == 0.9


def test_an_overloaded_relay_is_left_alone_for_a_moment_unless_there_is_another() -> None:
    assert DialPlan([A], 30).lost(0.0, CloseCode.TRY_LATER, 0.5).delay_s == 3.0
    assert DialPlan([A, B], 30).lost(0.0, CloseCode.TRY_LATER, 0.5).delay_s < 0.05


def test_goaway_spreads_clients_over_its_range_and_names_where_to_go() -> None:
    plan = DialPlan([A, B], 30)
    plan.welcomed(0.0)
    assert plan.goaway((1000, 3000), ["ws://elsewhere:5"], 0.5) == 2.0
    assert plan.left(100.0, 0.5).url == "ws://elsewhere:5"
    assert plan.current == "ws://elsewhere:5"
    assert plan.lost(101.0, None, 0.5).url == B


def test_goaway_without_alternates_leads_to_the_next_address_at_once() -> None:
    plan = DialPlan([A, B], 30)
    plan.welcomed(0.0)
    plan.goaway((0, 10), [], 0.5)
    dial = plan.left(100.0, 0.5)
    assert (dial.url, dial.delay_s) == (B, 0.0)


def test_a_relay_that_always_says_goaway_is_not_hammered() -> None:
    plan = DialPlan([A], 30)
    delays = []
    for turn in range(6):
        plan.welcomed(float(turn))
        plan.goaway((0, 0), [], 0.0)
        delays.append(plan.left(turn + 0.1, 0.0).delay_s)
    assert delays[-1] > 1.0


@pytest.mark.parametrize("url", ["ws://plain:1", "http://x", "nonsense", "wss://me:pw@host"])
def test_alternates_that_are_unusable_or_less_safe_are_passed_over(url: str) -> None:
    plan = DialPlan(["wss://a:1", "wss://b:1"], 30)
    plan.goaway((0, 0), [url], 0.0)
    assert plan.lost(0.0, CloseCode.RESTART, 0.0).url == "wss://b:1"


def test_a_range_in_the_wrong_order_or_below_zero_is_still_a_range() -> None:
    assert DialPlan([A], 30).goaway((3000, -5), [], 1.0) == 3.0


def test_a_dropped_address_is_dialled_no_more_and_the_last_one_cannot_be_dropped() -> None:
    plan = DialPlan([A, B], 30)
    assert plan.drop_current()
    assert {plan.lost(0.0, None, 0.0).url for _ in range(6)} == {B}
    assert not plan.drop_current()

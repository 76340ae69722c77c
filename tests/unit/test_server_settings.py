"""Every setting that a layer below takes comes from the configuration, and from the right place in it."""

import dataclasses
from typing import Any

import pytest
from posthouse.config import FIELDS, Config, load
from posthouse.config.setting import Field
from posthouse.server import settings

NOT_PASSED_DOWN = {
    # The server itself, its store and its log.
    *(key for key in FIELDS if key.startswith(("server.", "lease.", "peer.", "pod.", "log."))),
    *("store.url", "store.busy_timeout_ms", "store.commit_timeout_s", "store.min_free_bytes"),
    *("limits.memory_watermark_bytes", "limits.hold_s", "limits.max_held_bytes", "legacy.enabled"),
}
TOGETHER = {
    "limits.default_window": {"limits.max_window": 1_000_000},
    "limits.max_window": {"limits.default_window": 1},
    "limits.default_ttl_s": {"limits.max_ttl_s": 3650 * 86_400},
    "limits.max_ttl_s": {"limits.default_ttl_s": 1},
    "limits.max_frame_bytes": {"limits.max_outbound_bytes": 2**26, "limits.max_inflight_bytes": 2**26},
    "limits.max_message_bytes": {},
}
"""What has to change with a setting for the configuration to stay possible."""


def passed_down(config: Config) -> list[Any]:
    return [
        settings.broker_settings(config),
        settings.session_settings(config, "relay"),
        settings.websocket_limits(config),
        settings.front_limits(config),
    ]


def another_value(field: Field) -> Any:
    if field.kind is bool:
        return not field.default
    value = field.default * 2 + 7 if field.default else 70_000
    if field.setting.maximum is not None:
        value = min(value, field.setting.maximum)
    if value == field.default:
        value = field.default // 2
    return field.kind(value)


@pytest.mark.parametrize("key", sorted(set(FIELDS) - NOT_PASSED_DOWN))
def test_a_setting_reaches_the_layer_that_goes_by_it(key: str) -> None:
    others = TOGETHER.get(key, {})
    before = load(overrides=others)
    after = load(overrides={**others, key: another_value(FIELDS[key])})
    assert passed_down(before) != passed_down(after)


def test_clients_are_told_every_limit_that_the_protocol_names() -> None:
    config = Config()
    shown = settings.shown_limits(config)
    assert shown == settings.session_settings(config, "relay").limits
    named = {"max_frame_bytes": 2**20, "idle_timeout_s": 60, "max_window": 4096, "live_timeout_ms": 2000}
    named |= {"connections_per_key": 8, "slow_reader_s": 30}
    assert named.items() <= shown.items()
    assert {
        "max_outbound_bytes",
        "max_inflight_bytes",
        "dedupe_window_s",
        "max_message_bytes",
    } <= shown.keys()
    assert all(type(value) is int for value in shown.values())


def test_times_are_shown_rounded_up() -> None:
    shown = settings.shown_limits(
        load(overrides={"limits.idle_timeout_s": 1.2, "limits.hello_timeout_s": 0.5})
    )
    assert (shown["idle_timeout_s"], shown["hello_timeout_s"]) == (2, 1)


def test_what_is_not_configured_keeps_the_layers_own_default() -> None:
    plain = settings.broker_settings(Config())
    for field in dataclasses.fields(plain):
        if field.name != "quotas":
            assert getattr(plain, field.name) == field.default, field.name

"""The inner layers' own defaults, which tests use, are those of the configuration, which people read."""

import dataclasses
from typing import Any

import pytest
from posthouse.broker.settings import BrokerSettings, Quotas
from posthouse.config import Config
from posthouse.session.settings import Policy, SessionSettings

CONFIG = Config()
NOT_CONFIGURED = {
    "BrokerSettings": {
        "quotas",
        "page_bytes",
        "remembered_ids",
        "remembered_attempts",
        "expire_limit",
        "seq_block",
        "busy_retry_ms",
    },
    "SessionSettings": {"relay", "limits", "features", "network", "max_held_bytes", "active_timeout_s"}
    | {"authenticated", "anonymous", "legacy"},
}
ELSEWHERE = {
    "tick_s": CONFIG.commit.tick_ms / 1000,
    "live_timeout_s": CONFIG.limits.live_timeout_ms / 1000,
    "page_rows": CONFIG.store.backlog_page_rows,
    "batch_messages": CONFIG.commit.batch_messages,
    "batch_bytes": CONFIG.commit.batch_bytes,
    "max_message_bytes": CONFIG.limits.message_bytes,
    "legacy_hello_timeout_s": CONFIG.legacy.hello_timeout_s,
    "legacy_backlog_limit": CONFIG.legacy.backlog_limit,
}


@pytest.mark.parametrize(
    "settings",
    [BrokerSettings(), SessionSettings(relay="relay", limits={})],
    ids=lambda settings: type(settings).__name__,
)
def test_settings_of_a_layer_have_the_defaults_of_the_configuration(settings: Any) -> None:
    for field in dataclasses.fields(settings):
        if field.name in NOT_CONFIGURED[type(settings).__name__]:
            continue
        configured = ELSEWHERE[field.name] if field.name in ELSEWHERE else getattr(CONFIG.limits, field.name)
        assert getattr(settings, field.name) == configured, field.name


def test_quotas_have_the_defaults_of_the_configuration() -> None:
    assert dataclasses.asdict(Quotas()) == dataclasses.asdict(CONFIG.quota)


def test_policies_have_the_defaults_of_the_configuration() -> None:
    settings = SessionSettings(relay="relay", limits={})
    assert dataclasses.asdict(settings.anonymous) == dataclasses.asdict(CONFIG.anonymous)
    assert settings.authenticated == Policy(buckets_per_connection=CONFIG.limits.buckets_per_connection)
    legacy = dataclasses.asdict(CONFIG.legacy)
    for name in ("enabled", "publish", "read_buckets", "max_publish_per_s"):
        assert getattr(settings.legacy, name) == legacy[name]

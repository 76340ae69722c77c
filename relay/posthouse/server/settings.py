"""From the configuration to the plain settings that sessions, the broker and the connections take.

The only place where a setting's name in the configuration meets its name in a layer below.
"""

from __future__ import annotations

from math import ceil

from posthouse.broker import BrokerSettings, Quotas
from posthouse.config import Config
from posthouse.server.front import FrontLimits
from posthouse.server.websocket.interface import WebSocketLimits
from posthouse.session.settings import Policy, SessionSettings

UNSENT_PER_OUTBOUND = 4
"""What a socket may leave unread, in ``limits.max_outbound_bytes``: ciphertext as base64, and answers beside it."""

MOST_UNSEEN_BYTES = 64 * 1024
"""What may wait for a socket before its session is told, and told again when it has gone."""


def broker_settings(config: Config) -> BrokerSettings:
    """What the broker is told."""
    limits, quota, commit = config.limits, config.quota, config.commit
    return BrokerSettings(
        quotas=Quotas(
            mailbox_messages=quota.mailbox_messages,
            mailbox_bytes=quota.mailbox_bytes,
            guest_mailbox_messages=quota.guest_mailbox_messages,
            guest_mailbox_bytes=quota.guest_mailbox_bytes,
            total_messages=quota.total_messages,
            total_bytes=quota.total_bytes,
        ),
        tick_s=commit.tick_ms / 1000,
        live_timeout_s=limits.live_timeout_ms / 1000,
        default_ttl_s=limits.default_ttl_s,
        max_ttl_s=limits.max_ttl_s,
        dedupe_window_s=limits.dedupe_window_s,
        dedupe_entries=limits.dedupe_entries,
        connections_per_key=limits.connections_per_key,
        readers_per_bucket=limits.readers_per_bucket,
        max_inflight_bytes=limits.max_inflight_bytes,
        receipts_per_connection=limits.receipts_per_connection,
        page_rows=config.store.backlog_page_rows,
        batch_messages=commit.batch_messages,
        batch_bytes=commit.batch_bytes,
        cached_mailboxes=limits.cached_mailboxes,
    )


def session_settings(config: Config, relay_id: str) -> SessionSettings:
    """What the sessions are told."""
    limits, anonymous, legacy = config.limits, config.anonymous, config.legacy
    return SessionSettings(
        relay=relay_id,
        limits=shown_limits(config),
        max_frame_bytes=limits.max_frame_bytes,
        max_message_bytes=limits.message_bytes,
        max_window=limits.max_window,
        default_window=limits.default_window,
        max_outbound_bytes=limits.max_outbound_bytes,
        hello_timeout_s=limits.hello_timeout_s,
        legacy_hello_timeout_s=legacy.hello_timeout_s,
        legacy_backlog_limit=legacy.backlog_limit,
        authenticated=Policy(buckets_per_connection=limits.buckets_per_connection),
        anonymous=Policy(
            enabled=anonymous.enabled,
            publish=anonymous.publish,
            read_buckets=anonymous.read_buckets,
            max_publish_per_s=anonymous.max_publish_per_s,
            buckets_per_connection=anonymous.buckets_per_connection,
        ),
        legacy=Policy(
            enabled=legacy.enabled,
            publish=legacy.publish,
            read_buckets=legacy.read_buckets,
            max_publish_per_s=legacy.max_publish_per_s,
        ),
    )


def websocket_limits(config: Config) -> WebSocketLimits:
    """What the connections are told."""
    limits = config.limits
    return WebSocketLimits(
        max_frame_bytes=limits.max_frame_bytes,
        max_handshakes=limits.max_handshakes,
        handshake_timeout_s=limits.handshake_timeout_s,
        idle_timeout_s=limits.idle_timeout_s,
        slow_reader_s=limits.slow_reader_s,
        # Of what waits unseen below this mark no credit goes back: it must not be all the credit that there is.
        write_high_water_bytes=min(MOST_UNSEEN_BYTES, limits.max_outbound_bytes // 2),
    )


def front_limits(config: Config) -> FrontLimits:
    """What the front is told."""
    limits = config.limits
    return FrontLimits(
        max_connections=limits.max_connections,
        max_unsent_bytes=UNSENT_PER_OUTBOUND * limits.max_outbound_bytes,
    )


def shown_limits(config: Config) -> dict[str, int]:
    """What clients are told: ``welcome.limits`` and the information document (docs/protocol.md 2.1).

    Times that the configuration gives in fractions are rounded up to whole units.
    """
    limits, quota = config.limits, config.quota
    return {
        "max_frame_bytes": limits.max_frame_bytes,
        "max_message_bytes": limits.message_bytes,
        "max_window": limits.max_window,
        "default_window": limits.default_window,
        "max_outbound_bytes": limits.max_outbound_bytes,
        "max_inflight_bytes": limits.max_inflight_bytes,
        "hello_timeout_s": ceil(limits.hello_timeout_s),
        "idle_timeout_s": ceil(limits.idle_timeout_s),
        "slow_reader_s": ceil(limits.slow_reader_s),
        "live_timeout_ms": limits.live_timeout_ms,
        "dedupe_window_s": ceil(limits.dedupe_window_s),
        "default_ttl_s": limits.default_ttl_s,
        "max_ttl_s": limits.max_ttl_s,
        "connections_per_key": limits.connections_per_key,
        "buckets_per_connection": limits.buckets_per_connection,
        "readers_per_bucket": limits.readers_per_bucket,
        "receipts_per_connection": limits.receipts_per_connection,
        "mailbox_messages": quota.mailbox_messages,
        "mailbox_bytes": quota.mailbox_bytes,
        "guest_mailbox_messages": quota.guest_mailbox_messages,
        "guest_mailbox_bytes": quota.guest_mailbox_bytes,
        "legacy_backlog_limit": config.legacy.backlog_limit,
    }

"""The settings that bound what clients, messages and the store may take: limits, quotas, transactions.

Written as in `sections`, which puts them together with the others.
"""

from dataclasses import dataclass
from typing import Annotated

from posthouse.config.setting import Setting

KIB = 1024
MIB = 1024 * KIB
DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection, one message and the whole process may take. Clients see them in welcome.limits."""

    max_connections: Annotated[
        int,
        Setting(
            "Connections at a time; one more is closed with 1013.",
            why="At a few KiB each when idle they fit a small machine; the process's open file limit must allow them.",
            unit="connections",
            minimum=1,
            maximum=10_000_000,
        ),
    ] = 20_000
    max_handshakes: Annotated[
        int,
        Setting(
            "Connections at a time that have not finished TLS and HTTP; one more ends the oldest of them.",
            why="The half-open ones that an attacker holds must not take the places of real clients; "
            "a thousand is a second of the busiest reconnecting.",
            unit="connections",
            minimum=1,
            maximum=10_000_000,
        ),
    ] = 1024
    connections_per_key: Annotated[
        int,
        Setting(
            "Connections of one key, at all members together; one more sends the oldest away (4505).",
            why="A person has a few devices, each with a connection or, while it reconnects, two.",
            unit="connections",
            minimum=1,
            maximum=100_000,
        ),
    ] = 8
    hold_s: Annotated[
        float,
        Setting(
            "After this long without an active member publishes are rejected not-active; until then they wait.",
            why="Longer than lease.duration_s: a change of the active is a pause, also where the active one hangs.",
            unit="s",
            minimum=0,
            maximum=3600,
            zero="at once",
        ),
    ] = 8.0
    max_held_bytes: Annotated[
        int,
        Setting(
            "What the clients of one member may send, in all, while none is active; "
            "beyond it publishes are rejected not-active.",
            why="A few seconds of a busy relay's messages.",
            unit="bytes",
            minimum=KIB,
        ),
    ] = 32 * MIB
    handshake_timeout_s: Annotated[
        float,
        Setting(
            "A connection that has not finished TLS and HTTP after this is dropped.",
            why="Slow mobile networks need two or three seconds.",
            unit="s",
            minimum=0.1,
            maximum=600,
        ),
    ] = 5.0
    hello_timeout_s: Annotated[
        float,
        Setting(
            "A v2 connection without its hello after this is closed (4504).",
            why="A hello is one round trip and one signature (docs/protocol.md 2.1).",
            unit="s",
            minimum=0.1,
            maximum=600,
        ),
    ] = 5.0
    idle_timeout_s: Annotated[
        float,
        Setting(
            "A connection from which nothing has come for this long is closed (1011); it is pinged at half of it.",
            why="Shorter than the idle limits of common proxies and carriers, so that the pings keep it open.",
            unit="s",
            minimum=1,
            maximum=DAY_S,
        ),
    ] = 60.0
    slow_reader_s: Annotated[
        float,
        Setting(
            "A connection whose socket takes nothing for this long while something waits for it is closed (4001).",
            why="A phone that changes networks recovers sooner or not at all.",
            unit="s",
            minimum=1,
            maximum=DAY_S,
        ),
    ] = 30.0
    max_frame_bytes: Annotated[
        int,
        Setting(
            "Largest WebSocket message taken (more closes 1009), and largest that the relay sends.",
            why="One array of a thousand small messages, or one message with a picture; "
            "a reader needs a buffer of this size.",
            unit="bytes",
            minimum=16 * KIB,
            maximum=64 * MIB,
        ),
    ] = MIB
    max_message_bytes: Annotated[
        int,
        Setting(
            "Largest ciphertext of one message; a larger one is rejected too-large.",
            why="What one frame holds in JSON, whose base64 makes four characters of three bytes.",
            unit="bytes",
            minimum=1024,
            maximum=64 * MIB,
            zero="three quarters of limits.max_frame_bytes, less 3 KiB for the fields around it",
        ),
    ] = 0
    max_window: Annotated[
        int,
        Setting(
            "Largest window a client may ask for; a larger wish is cut to it.",
            why="Sixteen times the default, for readers that drain over long distances.",
            unit="messages",
            minimum=1,
            maximum=1_000_000,
        ),
    ] = 4096
    default_window: Annotated[
        int,
        Setting(
            "Unacknowledged messages on one connection, where its hello does not say.",
            why="256 messages of 1 KiB fill 20 Mbit/s at a round trip of 100 ms (docs/protocol.md 2.1).",
            unit="messages",
            minimum=1,
            maximum=1_000_000,
        ),
    ] = 256
    max_outbound_bytes: Annotated[
        int,
        Setting(
            "Bytes that wait for one connection's socket; beyond it, messages stay in the store.",
            why="Four full frames keep a fast socket busy. A crowd of slow ones is bounded by "
            "limits.memory_watermark_bytes.",
            unit="bytes",
            minimum=64 * KIB,
            maximum=1024 * MIB,
        ),
    ] = 4 * MIB
    max_inflight_bytes: Annotated[
        int,
        Setting(
            "What one connection's publishes without a result may hold, each its ciphertext and 512 bytes; "
            "beyond it they are rejected rate-limited.",
            why="Eight full frames: more than a disk's sync takes, at the rate of a 1 Gbit/s link.",
            unit="bytes",
            minimum=64 * KIB,
            maximum=1024 * MIB,
        ),
    ] = 8 * MIB
    memory_watermark_bytes: Annotated[
        int,
        Setting(
            "When the process is larger than this, connections and publishes are refused (1013, rate-limited).",
            why="The rest is for what is already on its way and for deletions.",
            unit="bytes",
            minimum=64 * MIB,
            zero="three quarters of the memory that the machine or its control group allows",
        ),
    ] = 0
    live_timeout_ms: Annotated[
        int,
        Setting(
            "A message of mode live that no owned reader has acked after this is undeliverable.",
            why="A sender waits this long before it takes its other route (docs/protocol.md 2.4).",
            unit="ms",
            minimum=10,
            maximum=600_000,
        ),
    ] = 2000
    dedupe_window_s: Annotated[
        float,
        Setting(
            "How long a delivered message is remembered, so that a repeat of it is answered duplicate.",
            why="Longer than any client goes on trying to send the same message after a lost answer.",
            unit="s",
            minimum=0,
            maximum=30 * DAY_S,
            zero="not remembered",
        ),
    ] = 600.0
    dedupe_entries: Annotated[
        int,
        Setting(
            "How many delivered messages are remembered; the oldest are forgotten first.",
            why="About 100 MB when full: ten minutes at 800 messages a second, less at more.",
            unit="messages",
            minimum=0,
            maximum=100_000_000,
            zero="none",
        ),
    ] = 500_000
    default_ttl_s: Annotated[
        int,
        Setting(
            "How long a message waits, where its sender does not say.",
            why="People come back from a holiday.",
            unit="s",
            minimum=1,
            maximum=3650 * DAY_S,
        ),
    ] = 30 * DAY_S
    max_ttl_s: Annotated[
        int,
        Setting(
            "Longest that a message waits; a longer wish is cut to it.",
            why="The default time: senders may ask for less, and nobody's disk is a free archive.",
            unit="s",
            minimum=1,
            maximum=3650 * DAY_S,
        ),
    ] = 30 * DAY_S
    buckets_per_connection: Annotated[
        int,
        Setting(
            "Buckets that one authenticated connection may read.",
            why="Eight addresses of two buckets each; every one costs marks in the store.",
            unit="names",
            minimum=0,
            maximum=65_536,
        ),
    ] = 16
    readers_per_bucket: Annotated[
        int,
        Setting(
            "Reader names whose marks are kept for one bucket; beyond it the one idle for longest is forgotten.",
            why="Marks are kept for each reader and message; a thousand readers is a crowd to hide in.",
            unit="readers",
            minimum=1,
            maximum=10_000_000,
        ),
    ] = 1000
    cached_mailboxes: Annotated[
        int,
        Setting(
            "Mailboxes without a reader or sender whose counters stay in memory.",
            why="About 50 MB when full; one that is not there costs one indexed read.",
            unit="names",
            minimum=0,
            maximum=100_000_000,
        ),
    ] = 100_000
    receipts_per_connection: Annotated[
        int,
        Setting(
            "Messages of one connection for which receipts are still to come; the oldest give theirs up.",
            why="A few MB for a client that sends ten thousand messages to people who are away.",
            unit="messages",
            minimum=0,
            maximum=10_000_000,
        ),
    ] = 10_000

    @property
    def json_frame_room(self) -> int:
        """Ciphertext that one JSON frame holds with all other fields of its message, in bytes."""
        return (self.max_frame_bytes - 4 * KIB) * 3 // 4

    @property
    def message_bytes(self) -> int:
        """Largest ciphertext of one message, in bytes: `max_message_bytes`, or what follows from the frame."""
        return self.max_message_bytes or self.json_frame_room


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much may wait in the store; a message beyond it is rejected with quota, never dropped in silence."""

    mailbox_messages: Annotated[
        int,
        Setting(
            "Messages in one mailbox.",
            why="Twice the 100,000 that an authenticated sender is promised room for (docs/protocol.md 2.5).",
            unit="messages",
            minimum=1,
            zero="no such limit",
        ),
    ] = 200_000
    mailbox_bytes: Annotated[
        int,
        Setting(
            "Ciphertext in one mailbox.",
            why="100,000 messages of 1 KiB take a fifth of it; larger ones are common too.",
            unit="bytes",
            minimum=1024,
            zero="no such limit",
        ),
    ] = 512 * MIB
    guest_mailbox_messages: Annotated[
        int,
        Setting(
            "Messages in one mailbox that all anonymous and legacy senders share.",
            why="Strangers must not be able to fill a mailbox against its owner's correspondents.",
            unit="messages",
            minimum=1,
            zero="no such limit",
        ),
    ] = 10_000
    guest_mailbox_bytes: Annotated[
        int,
        Setting(
            "Ciphertext in one mailbox that all anonymous and legacy senders share.",
            why="A sixteenth of the whole, at about 3 KiB a message.",
            unit="bytes",
            minimum=1024,
            zero="no such limit",
        ),
    ] = 32 * MIB
    total_messages: Annotated[
        int,
        Setting(
            "Messages in the whole store.",
            why="About as far as one SQLite file stays quick on one disk.",
            unit="messages",
            minimum=1,
            zero="no such limit",
        ),
    ] = 50_000_000
    total_bytes: Annotated[
        int,
        Setting(
            "Ciphertext in the whole store.",
            why="store.min_free_bytes keeps the disk from filling, and only the operator knows its size.",
            unit="bytes",
            minimum=1024,
            zero="no such limit",
        ),
    ] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """How writes are gathered into transactions."""

    tick_ms: Annotated[
        float,
        Setting(
            "How long a message that is out with an online reader waits for its ack before it is written.",
            why="Most acks return within it, and such a message never touches the disk; "
            "it is also the longest that a sender of one that is not acked waits more.",
            unit="ms",
            minimum=0.5,
            maximum=1000,
        ),
    ] = 8.0
    batch_messages: Annotated[
        int,
        Setting(
            "Messages in one transaction at most.",
            why="The time for one sync is shared by so many; more would only make each sender wait longer.",
            unit="messages",
            minimum=1,
            maximum=1_000_000,
        ),
    ] = 4096
    batch_bytes: Annotated[
        int,
        Setting(
            "Ciphertext in one transaction at most.",
            why="A slow disk writes it in a tenth of a second.",
            unit="bytes",
            minimum=64 * KIB,
            maximum=1024 * MIB,
        ),
    ] = 16 * MIB

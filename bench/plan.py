"""What is measured: the cases (workload and load) and the subjects (a server and how a client uses it)."""

from dataclasses import dataclass, replace
from enum import Enum


class Peer(Enum):
    """A server; the value is its name on the command line."""

    POSTHOUSE = "posthouse"
    MOSQUITTO = "mosquitto"
    NATS = "nats"
    POSTGRESQL = "postgresql"


class Setting(Enum):
    """What stands behind the address that clients use."""

    ALONE = "one server with a store of its own"
    ON_POSTGRES = "one relay with its store on a PostgreSQL server"
    AT_THE_ACTIVE = "two relays on one SQLite file, clients at the active one"
    AT_A_FRONT = "two relays on one SQLite file, clients at the one that is not active"
    RAW_INSERTS = "a PostgreSQL server and a program that only inserts"


@dataclass(frozen=True)
class Subject:
    """A column of the comparison. `arguments` go to the load generator."""

    key: str
    title: str
    peer: Peer
    arguments: tuple[str, ...]
    durability: str
    """What an answer to the sender really stands for on disk."""
    answer: str
    """When the sender is answered."""
    setting: Setting = Setting.ALONE

    @property
    def needs(self) -> tuple[Peer, ...]:
        """The servers that must be installed."""
        return (self.peer, Peer.POSTGRESQL) if self.setting is Setting.ON_POSTGRES else (self.peer,)


@dataclass(frozen=True)
class Case:
    """A row of the comparison: one workload under one load."""

    key: str
    workload: str
    title: str
    arguments: tuple[str, ...]
    subjects: tuple[Subject, ...]

    @property
    def messages(self) -> int:
        """How many messages W2 keeps; 0 for other workloads."""
        words = self.arguments
        return int(words[words.index("-messages") + 1]) if "-messages" in words else 0


@dataclass(frozen=True)
class Extent:
    """How much of everything: a full run or a quick one."""

    warmup_s: float
    duration_s: float
    messages: int
    connections: int


FULL = Extent(warmup_s=1.0, duration_s=5.0, messages=200_000, connections=5_000)
QUICK = Extent(warmup_s=0.5, duration_s=2.0, messages=50_000, connections=1_000)

_SYNCED = "synced (SQLite WAL, synchronous=FULL), unless the reader acked before the commit"
_ACKED = "after the reader's ack (delivered) or after the sync (stored)"


_PROMISED = (
    "its commit: synced by the engine (synchronous_commit=on), unless the reader acked before the commit"
)


def _posthouse(variant: str, title: str) -> Subject:
    return Subject(
        f"posthouse-{variant}", f"posthouse, {title}", Peer.POSTHOUSE,
        ("-peer", "posthouse", "-variant", variant), _SYNCED, _ACKED,
    )  # fmt: skip


def _nats(key: str, title: str, memory_acks: bool, durability: str) -> Subject:
    flag = f"-nats-memory-acks={str(memory_acks).lower()}"
    return Subject(
        key, title, Peer.NATS, ("-peer", "nats", flag), durability, "when the stream has taken it"
    )  # fmt: skip


ARRAYS = _posthouse("arrays", "MessagePack arrays")
SINGLE = _posthouse("single", "MessagePack, one message a frame")
JSON = _posthouse("json", "JSON, one message a frame")
MOSQUITTO = Subject(
    "mosquitto", "mosquitto", Peer.MOSQUITTO, ("-peer", "mqtt", "-variant", "single"),
    "memory", "when the broker has taken it",
)  # fmt: skip
NATS = _nats(
    "nats", "NATS JetStream", True, "page cache, synced every 2 minutes; consumers' acks in memory"
)  # fmt: skip
NATS_FILES = _nats(
    "nats-files", "NATS JetStream, acks in files too", False, "page cache, synced every 2 minutes"
)  # fmt: skip

ON_POSTGRES = replace(
    ARRAYS,
    key="posthouse-postgres",
    title="posthouse on PostgreSQL",
    durability=_PROMISED,
    setting=Setting.ON_POSTGRES,
)
RAW_INSERTS = Subject(
    "raw-inserts", "raw batched inserts, same server", Peer.POSTGRESQL, (), "its commit: synced by the engine",
    "nobody is: a program inserts as many rows a transaction as posthouse does", Setting.RAW_INSERTS,
)  # fmt: skip
AT_THE_ACTIVE = replace(
    ARRAYS, key="posthouse-active", title="clients at the active member", setting=Setting.AT_THE_ACTIVE
)
AT_A_FRONT = replace(
    ARRAYS, key="posthouse-front", title="clients at a standby's front", setting=Setting.AT_A_FRONT
)

SUBJECTS = (
    ARRAYS, SINGLE, JSON, ON_POSTGRES, RAW_INSERTS, AT_THE_ACTIVE, AT_A_FRONT, MOSQUITTO, NATS, NATS_FILES
)  # fmt: skip


def cases(extent: Extent) -> tuple[Case, ...]:
    """All cases, in the order of the report."""
    timed = ("-warmup", f"{extent.warmup_s}s", "-duration", f"{extent.duration_s}s")
    online = ("-workload", "w1", *timed)
    stored = ("-workload", "w2", "-warmup", f"{extent.warmup_s}s", "-messages", str(extent.messages))
    idle = ("-workload", "w3", "-readers", str(extent.connections))
    three = (ARRAYS, MOSQUITTO, NATS)
    pair = (AT_THE_ACTIVE, AT_A_FRONT)
    return (
        Case("w1-64", "w1", "closed loop, window 64", (*online, "-window", "64"),
             (ARRAYS, SINGLE, JSON, MOSQUITTO, NATS, NATS_FILES)),
        Case("w1-8", "w1", "closed loop, window 8", (*online, "-window", "8"), (ARRAYS, SINGLE, MOSQUITTO, NATS)),
        Case("w1-5k", "w1", "open loop, 5,000/s", (*online, "-rate", "5000"), three),
        Case("w1-20k", "w1", "open loop, 20,000/s", (*online, "-rate", "20000"), three),
        Case("w2", "w2", f"{extent.messages:,} messages, window 64", (*stored, "-window", "64"),
             (ARRAYS, ON_POSTGRES, RAW_INSERTS, MOSQUITTO, NATS, NATS_FILES)),
        Case("w3", "w3", f"{extent.connections:,} idle connections", idle, three),
        Case("w1-front-64", "w1-front", "closed loop, window 64", (*online, "-window", "64"), pair),
        Case("w1-front-5k", "w1-front", "open loop, 5,000/s", (*online, "-rate", "5000"), pair),
    )  # fmt: skip

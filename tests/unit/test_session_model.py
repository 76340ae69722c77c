"""A v2 session against a plain model: whatever a client sends and in whatever order the broker answers.

The model knows for each item what has to come of it: a command, an answer, or both later. A broker is played that
answers every publish once, at some time, in either form. Held at every step: the session says and passes on exactly
what the model expects, in order; every publish gets exactly one result; nothing is left behind; nothing raises.
"""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from posthouse.exchange import Attend, Close, Command, Credit, Effect, Open, Outcomes, Superseded
from posthouse.identity import BucketKey
from posthouse.session.settings import Policy
from posthouse.wire.codec import JSON, MSGPACK
from posthouse.wire.codes import CloseCode, Code
from posthouse.wire.messages import (
    Ack,
    EpochChanged,
    Error,
    Goaway,
    Message,
    Nack,
    Ping,
    Pong,
    Publish,
    Result,
    Results,
    ServerMessage,
    StatusRequest,
    Subscribe,
    Unsubscribe,
    Welcome,
)
from session_driver import ALICE, BOB, BUCKETS, READER, Driver, connect, hello, settings

MAX_MESSAGE = 50
MAX_BUCKETS = 3
LIMITED = settings(
    max_message_bytes=MAX_MESSAGE,
    max_held_bytes=10**9,
    max_outbound_bytes=2000,
    authenticated=Policy(buckets_per_connection=MAX_BUCKETS),
    anonymous=Policy(buckets_per_connection=MAX_BUCKETS),
)

publishes = st.fixed_dictionaries(
    {
        "kind": st.just("publish"),
        "ciphertext": st.binary(max_size=MAX_MESSAGE + 5),
        "recipient": st.sampled_from([None, *BOB.addresses, "nobody"]),
        "bucket": st.sampled_from([None, None, BUCKETS[0], "no bucket"]),
        "mode": st.sampled_from(["store", "live", "network"]),
    }
)
subscribes = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["subscribe", "unsubscribe"]),
        "addresses": st.sampled_from(
            [None, [], [ALICE.address], [ALICE.addresses[1]], [BOB.address], ["bad"]]
        ),
        "buckets": st.none() | st.lists(st.sampled_from([*BUCKETS[:6], "bad"]), max_size=4),
        "reader": st.sampled_from([None, "short", READER]),
    }
)
others = st.fixed_dictionaries(
    {"kind": st.sampled_from(["ack", "nack", "status", "ping", "hello", "unknown", "no publish", "number"])}
)
frames = st.lists(publishes | publishes | subscribes | others, max_size=6)


class SessionAgainstModel(RuleBasedStateMachine):
    """One connection from its challenge to its end."""

    @initialize(
        codec=st.sampled_from([MSGPACK, JSON]),
        owned=st.booleans(),
        compact=st.booleans(),
        active=st.booleans(),
    )
    def connects(self, codec: Any, owned: bool, compact: bool, active: bool) -> None:
        self.driver: Driver = connect(codec, LIMITED, 7 if active else None)
        self.key = ALICE if owned else None
        self.compact = compact
        self.said_hello = self.welcomed = self.ended = False
        self.ref = 0
        self.under_way = 0
        self.buckets: set[str] = set()
        self.held: list[dict[str, Any]] = []
        self.unanswered: list[Publish] = []
        self.asked: Counter[int] = Counter()
        self.results: Counter[int] = Counter()
        self.expected_words: list[tuple[Any, ...]] = []
        self.expected_commands: list[Command] = []

    # --- what a client does

    @precondition(lambda self: not self.said_hello)
    @rule(rest=frames)
    def says_hello(self, rest: list[dict[str, Any]]) -> None:
        self.said_hello = True
        items = [self.item(plan) for plan in rest]
        self.held += items
        active = self.driver.conditions.epoch is not None
        if active:
            self.expect_welcome()
        self.check(
            self.driver.send(hello(self.key, compact_results=self.compact), *[i["wire"] for i in items])
        )

    @precondition(lambda self: self.said_hello and not self.ended)
    @rule(plans=frames)
    def sends_a_frame(self, plans: list[dict[str, Any]]) -> None:
        items = [self.item(plan) for plan in plans]
        if self.welcomed:
            for item in items:
                self.expect(item)
        else:
            self.held += items
        self.check(self.driver.send(*[item["wire"] for item in items]))

    @precondition(lambda self: self.welcomed and not self.ended)
    @rule(tail=st.binary(max_size=20))
    def sends_garbage(self, tail: bytes) -> None:
        self.expected_words.append(("error", "invalid", None))
        self.end()
        self.check(self.driver.send_raw(b"\xc1" + tail))
        assert self.driver.closing() == (CloseCode.BAD_MESSAGE, Code.INVALID)

    @rule()
    def is_gone(self) -> None:
        if self.welcomed and not self.ended:
            self.end()
        self.ended = self.said_hello = True
        self.driver.session.transport_closed()
        self.check(self.driver.said())

    # --- what the relay does

    @precondition(lambda self: self.said_hello and not self.welcomed and not self.ended)
    @rule()
    def becomes_active(self) -> None:
        self.driver.conditions.epoch = 8
        self.expect_welcome()
        self.driver.session.activated(1.0)
        self.check(self.driver.said())

    @precondition(lambda self: self.unanswered and not self.ended)
    @rule(data=st.data())
    def broker_answers(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.unanswered)))
        batch, self.unanswered = self.unanswered[:count], self.unanswered[count:]
        effects: list[Effect] = []
        for publish in batch:
            how = data.draw(st.sampled_from(["stored", "delivered", "undeliverable"]))
            if how == "undeliverable":
                effects.append(Result(publish.ref, "undeliverable", True, publish.id))
            else:
                status: Any = how
                effects.append(Outcomes(status, [publish.ref], [publish.id]))
        self.check(self.driver.said(effects))

    @precondition(lambda self: self.welcomed and not self.ended)
    @rule(size=st.integers(0, 1500))
    def broker_delivers(self, size: int) -> None:
        message = Message("m", 1, bytes(size), 1, 2, 1)
        assert self.driver.said([message, EpochChanged(3)]) == [message, EpochChanged(3)]
        self.under_way += size

    @precondition(lambda self: self.welcomed and not self.ended)
    @rule(waiting=st.integers(0, 3000))
    def socket_takes_some(self, waiting: int) -> None:
        self.driver.session.wrote(waiting)
        for command in self.driver.commands():
            assert isinstance(command, Credit)
            assert command.bytes >= 500
            self.under_way -= command.bytes
            assert self.under_way >= waiting
        assert self.under_way - waiting < 500

    @precondition(lambda self: self.welcomed and not self.ended)
    @rule()
    def is_superseded(self) -> None:
        self.expected_words.append(("goaway",))
        self.end()
        self.check(self.driver.said([Superseded()]))

    @precondition(lambda self: self.said_hello)
    @rule(seconds=st.floats(0, 9))
    def time_passes(self, seconds: float) -> None:
        self.driver.now = max(self.driver.now, seconds)
        self.driver.session.tick(self.driver.now)
        self.check(self.driver.said())

    @invariant()
    def nothing_is_left_behind(self) -> None:
        if hasattr(self, "driver"):
            assert self.driver.session.commands == []
            assert self.driver.session.outgoing == []

    def teardown(self) -> None:
        if not hasattr(self, "driver") or self.ended or not self.welcomed:
            return
        ends: list[Effect] = [Outcomes("stored", [item.ref], [item.id]) for item in self.unanswered]
        self.check(self.driver.said(ends))
        assert self.results == self.asked

    # --- the model

    def item(self, plan: dict[str, Any]) -> dict[str, Any]:
        """A planned item with its ref and what goes over the wire."""
        self.ref += 1
        ref, kind = self.ref, plan["kind"]
        wire: Any
        if kind == "publish":
            fields = {name: plan[name] for name in ("ciphertext", "recipient", "bucket", "mode")}
            wire = Publish(ref, **fields)
        elif kind == "subscribe":
            wire = Subscribe(ref, plan["addresses"], plan["buckets"], plan["reader"])
        elif kind == "unsubscribe":
            wire = Unsubscribe(ref, plan["addresses"], plan["buckets"])
        else:
            wire = {
                "ack": Ack(["a"]),
                "nack": Nack(["b"], "busy"),
                "status": StatusRequest(ref),
                "ping": Ping(ref),
                "hello": hello(),
                "unknown": {"type": "dance", "ref": ref},
                "no publish": {"type": "publish", "ref": ref, "ciphertext": 5},
                "number": 5,
            }[kind]
        return {**plan, "ref": ref, "wire": wire}

    def expect_welcome(self) -> None:
        self.welcomed = True
        self.expected_words.append(("welcome",))
        address = ALICE.address if self.key else None
        self.expected_commands.append(Open(address, address is None, 256, 2000))
        held, self.held = self.held, []
        for item in held:
            self.expect(item)

    def expect(self, item: dict[str, Any]) -> None:
        kind, ref = item["kind"], item["ref"]
        if kind == "publish":
            self.expect_publish(item)
        elif kind == "subscribe":
            self.expect_subscribe(item)
        elif kind == "unsubscribe":
            self.expect_unsubscribe(item)
        elif kind in ("ack", "nack", "status"):
            self.expected_commands.append(item["wire"])
        elif kind == "ping":
            self.expected_words.append(("pong", ref))
        elif kind == "no publish":
            self.asked[ref] += 1
            self.expected_words.append(("rejected", ref, "invalid"))
        else:
            self.expected_words.append(("error", "invalid", ref if kind == "unknown" else None))

    def expect_publish(self, item: dict[str, Any]) -> None:
        ref, ciphertext = item["ref"], item["ciphertext"]
        self.asked[ref] += 1
        names = [name for name in (item["recipient"], item["bucket"]) if name is not None]
        if not ciphertext or len(names) != 1 or names[0] in ("nobody", "no bucket"):
            code = "invalid"
        elif len(ciphertext) > MAX_MESSAGE:
            code = "too-large"
        elif item["mode"] == "network":
            code = "network-unavailable"
        else:
            recipient = BOB.address if item["recipient"] else None
            identity = sha256(ciphertext).hexdigest()
            publish = Publish(ref, ciphertext, recipient, item["bucket"], item["mode"], id=identity)
            self.expected_commands.append(publish)
            self.unanswered.append(publish)
            return
        self.expected_words.append(("rejected", ref, code))

    def expect_subscribe(self, item: dict[str, Any]) -> None:
        addresses, buckets = item["addresses"] or [], set(item["buckets"] or [])
        if not addresses and not buckets and not self.key:
            code = "invalid"
        elif addresses and not (self.key and set(addresses) <= set(ALICE.addresses)):
            code = "not-owner"
        elif buckets and len(buckets | self.buckets) > MAX_BUCKETS:
            code = "quota"
        elif "bad" in buckets or (not self.key and item["reader"] != READER):
            code = "invalid"
        else:
            self.buckets |= buckets
            reader = f"key/{ALICE.address}" if self.key else f"name/{READER}"
            owned = [ALICE.address] if addresses or not buckets else []
            names = [BucketKey(name) for name in sorted(buckets)]
            self.expected_commands.append(Attend(item["ref"], owned, names, reader, True))
            return
        self.expected_words.append(("error", code, item["ref"]))

    def expect_unsubscribe(self, item: dict[str, Any]) -> None:
        addresses, buckets = item["addresses"] or [], set(item["buckets"] or [])
        if "bad" in buckets or "bad" in addresses:
            self.expected_words.append(("error", "invalid", item["ref"]))
            return
        self.buckets = self.buckets - buckets if addresses or buckets else set()
        canonical: list[str] = [ALICE.address if name in ALICE.addresses else name for name in addresses]
        self.expected_commands.append(Unsubscribe(item["ref"], canonical or None, sorted(buckets) or None))

    def end(self) -> None:
        self.ended = True
        self.expected_commands.append(Close())

    # --- held against it

    def check(self, said: list[ServerMessage]) -> None:
        words = [word for word in map(self.word, said) if word is not None]
        assert words == self.expected_words
        commands = self.driver.commands()
        for command in commands:
            if isinstance(command, Attend | Unsubscribe) and command.buckets:
                command.buckets.sort()
        assert commands == self.expected_commands
        self.expected_words, self.expected_commands = [], []
        for ref, count in self.results.items():
            assert count == 1 == self.asked[ref]

    def word(self, item: ServerMessage) -> tuple[Any, ...] | None:
        """What the model says of an answer; None for results of the broker, which are counted."""
        if isinstance(item, Welcome):
            return ("welcome",)
        if isinstance(item, Pong):
            return ("pong", item.t)
        if isinstance(item, Error):
            return ("error", item.code, item.ref)
        if isinstance(item, Goaway):
            return ("goaway",)
        if isinstance(item, Results):
            assert self.compact
            self.results.update(item.refs)
            return None
        assert isinstance(item, Result)
        self.results[item.ref] += 1
        if item.status != "rejected":
            assert not self.compact or item.status == "undeliverable"
            return None
        assert item.fallback == (item.code != "invalid")
        return ("rejected", item.ref, item.code)


TestSessionAgainstModel = SessionAgainstModel.TestCase
TestSessionAgainstModel.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=25, deadline=None
)

"""Limits of the whole process: connections and memory. What is refused hears so, and the rest goes on."""

from collections.abc import Callable

import pytest
from relay_process import RelayProcess
from wire_fixtures import Dial
from wire_keys import named_key
from wire_socket import Closed

MakeRelay = Callable[..., RelayProcess]
ALICE, BOB = named_key("alice"), named_key("bob")
MIB = 2**20


def refusal(dial: Dial, relay: RelayProcess) -> tuple[int, str]:
    """How the relay closes a new connection, before it has said anything."""
    with dial.socket(relay, protocols=("posthouse.v2.msgpack",)) as refused:
        with pytest.raises(Closed) as closed:
            refused.read_message()
        return closed.value.code, closed.value.reason


def test_one_connection_too_many_is_closed_1013_and_there_is_room_again_later(
    make_relay: MakeRelay, dial: Dial
) -> None:
    relay = make_relay(config="limits.max_connections = 2\n").start()
    first, second = dial(relay), dial(relay)
    assert refusal(dial, relay) == (1013, "overload")
    assert first.post(b"x", recipient=ALICE.address)["status"] == "stored"
    second.close()
    relay.wait_for("session ended", where=lambda line: line["code"] == 1006)
    assert dial(relay).post(b"y", recipient=ALICE.address)["status"] == "stored"


def test_above_the_memory_watermark_nothing_new_is_taken_until_memory_has_shrunk(
    make_relay: MakeRelay, dial: Dial
) -> None:
    config = (
        f"limits.memory_watermark_bytes = {120 * MIB}\nlimits.max_inflight_bytes = {1024 * MIB}\n"
        f"limits.max_outbound_bytes = {128 * MIB}\nlimits.slow_reader_s = 3600\n"
    )
    relay = make_relay(store="memory:", config=config).start()
    assert relay.metrics()["posthouse_memory_watermark_bytes"] == 120 * MIB
    # A reader that stops reading while messages for it pile up in the relay's memory.
    reader = dial(relay, ALICE, window=4096)
    reader.subscribe()
    sender = dial(relay, BOB)
    for number in range(400):
        sender.publish(b"%6d" % number + bytes(512 * 1024), recipient=ALICE.address, mode="live")
        sender.settle()
        if number % 10 == 0 and relay.metrics()["posthouse_overloaded"]:
            break
    line = relay.wait_for("memory above the watermark: nothing new is taken")
    assert line["used_bytes"] > line["limit_bytes"] == 120 * MIB
    result = sender.post(b"one more", recipient=ALICE.address)
    assert (result["status"], result["code"], result["fallback"]) == ("rejected", "rate-limited", True)
    assert result["retry_after_ms"] > 0
    assert refusal(dial, relay) == (1013, "overload")
    assert relay.metrics()["posthouse_overloaded"] == 1
    assert relay.get("/readyz")[0] == 200
    reader.close()
    relay.wait_for("memory below the watermark again")
    assert dial(relay).post(b"again", recipient=ALICE.address)["status"] == "undeliverable"


def test_on_a_nearly_full_disk_new_messages_are_refused_and_old_ones_still_go_out(
    make_relay: MakeRelay, dial: Dial
) -> None:
    relay = make_relay().start()
    assert dial(relay).post(b"kept", recipient=ALICE.address)["status"] == "stored"
    assert relay.stop() == 0
    relay.config = f"store.min_free_bytes = {2**62}\n"
    relay.start()
    result = dial(relay).post(b"more", recipient=ALICE.address)
    assert (result["status"], result["code"], result["fallback"]) == ("rejected", "store-unavailable", True)
    reader = dial(relay, ALICE)
    (kept,) = reader.subscribe()[1]
    reader.ack(kept["id"])
    reader.settle()
    assert relay.events().count("the disk is nearly full: no new messages are taken") == 1

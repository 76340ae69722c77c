"""The metrics port of a running relay, and the information document on its client port."""

import json
import socket
from collections.abc import Callable

from relay_process import RelayProcess
from wire_fixtures import Dial
from wire_keys import named_key

MakeRelay = Callable[..., RelayProcess]
ALICE, BOB = named_key("alice"), named_key("bob")


def test_status_says_who_is_active_and_what_the_store_holds(relay: RelayProcess, dial: Dial) -> None:
    client = dial(relay)
    client.post(b"four", recipient=ALICE.address)
    status = relay.status()
    assert (status["role"], status["epoch"], status["ready"]) == ("active", 1, True)
    assert status["members"] == [{"name": status["member"], "role": "active", "ready": True}]
    assert status["active"] == status["member"]
    store = {"url": relay.store, "durable": True, "healthy": True, "messages": 1, "bytes": 4}
    assert status["store"] == store
    assert status["lease"] == {"kind": "file", "held": True}
    assert (status["connections"], status["sessions"]) == (1, {"posthouse.v2.msgpack": 1})
    assert status["last_handover"] is None


def test_metrics_count_what_happened(relay: RelayProcess, dial: Dial) -> None:
    reader, sender = dial(relay, BOB), dial(relay)
    reader.subscribe()
    sender.post(b"one", recipient=ALICE.address)
    sender.post(b"one", recipient=ALICE.address)
    sender.post(b"none", recipient="nobody")
    sender.publish(b"two", recipient=BOB.address)
    reader.ack(reader.message(b"two")["id"])
    sender.wait_for("result")
    reader.settle()
    dial.socket(relay)
    metrics = relay.metrics()
    assert metrics["posthouse_published_total"] == 3
    assert metrics['posthouse_results_total{status="duplicate"}'] == 1
    stored = metrics['posthouse_results_total{status="stored"}']
    assert stored + metrics['posthouse_results_total{status="delivered"}'] == 2
    assert metrics['posthouse_rejected_total{code="invalid"}'] == 1
    assert metrics['posthouse_session_refusals_total{code="invalid",dialect="v2"}'] == 1
    assert 1 <= metrics["posthouse_store_appended_total"] <= 2
    assert metrics["posthouse_sent_messages_total"] == 1
    assert metrics["posthouse_connections"] == 3
    assert metrics['posthouse_sessions{dialect="posthouse.v2.msgpack"}'] == 2
    assert metrics['posthouse_sessions{dialect="legacy"}'] == 1
    assert metrics["posthouse_connections_opened_total"] == 3
    assert metrics["posthouse_store_messages"] >= 1
    assert metrics["posthouse_store_bytes"] >= 3
    assert metrics["posthouse_disk_free_bytes"] > 0
    assert metrics["posthouse_epoch"] == 1
    assert metrics['posthouse_role{role="active"}'] == 1
    assert metrics["posthouse_commit_seconds_count"] >= 1
    assert metrics['posthouse_commit_seconds_bucket{le="+Inf"}'] == metrics["posthouse_commit_seconds_count"]
    assert metrics["process_resident_memory_bytes"] > 1e6
    sender.close()
    relay.wait_for("session ended")
    after = relay.metrics()
    assert after["posthouse_connections"] == 2
    assert after['posthouse_connections_closed_total{code="1006"}'] == 1


def test_pages_answer_get_and_head_and_nothing_else(relay: RelayProcess) -> None:
    for path in ("/metrics", "/healthz", "/readyz", "/status", "/healthz?verbose"):
        status, body = relay.get(path)
        assert status == 200 and body
        assert relay.get(path, "HEAD") == (200, b"")
    assert relay.get("/")[0] == 404
    assert relay.get("/metrics/x")[0] == 404
    assert relay.get("/status", "POST")[0] == 405
    assert relay.get("/status", "DELETE")[0] == 405


def test_the_metrics_port_survives_what_is_no_request(relay: RelayProcess) -> None:
    for junk in (
        b"\x00\xff" * 5000,
        b"GET /metrics\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000,
        b"",
    ):
        with socket.create_connection(("127.0.0.1", relay.metrics_port), 10) as peer:
            peer.sendall(junk)
            peer.shutdown(socket.SHUT_WR)
            try:
                while peer.recv(65536):
                    pass
            except ConnectionResetError:
                pass
    assert relay.get("/healthz")[0] == 200
    assert relay.events()[-1] == "listening"


def test_the_information_document_says_what_clients_need_to_know(make_relay: MakeRelay) -> None:
    relay = make_relay(
        config="server.name = 'Home'\nserver.public_names = ['relay.example']\nlegacy.enabled = false\n"
        "limits.max_window = 1000\n"
    ).start()
    status, body = relay.get("/", port=relay.port)
    document = json.loads(body)
    assert status == 200
    assert (document["name"], document["role"], document["epoch"]) == ("Home", "active", 1)
    assert document["relay"] == relay.status()["relay"]
    assert document["dialects"] == ["posthouse.v2.msgpack", "posthouse.v2.json"]
    assert document["public_names"] == ["relay.example"]
    assert document["limits"]["max_window"] == 1000
    assert document["limits"]["max_frame_bytes"] == 2**20


def test_documents_of_limits_agree(relay: RelayProcess, dial: Dial) -> None:
    document = json.loads(relay.get("/", port=relay.port)[1])
    assert dial(relay, ALICE).welcome["limits"] == document["limits"]
    assert document["dialects"][-1] == "legacy"

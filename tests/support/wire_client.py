"""A raw client of dialect v2 for tests from outside: plain dicts, JSON by the standard library, MessagePack by msgspec.

`expect` insists on the very next item; `wait_for` passes others over and leaves them in order; `settle` sends a ping
and gives everything that came before its pong, which is how a test sees that nothing came.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections import deque
from typing import Any

import msgspec
from wire_keys import Key, message_id
from wire_socket import BINARY, TEXT, TIMEOUT_S, Closed, WireSocket

Item = dict[str, Any]

ENCODINGS = ("msgpack", "json")
PROTOCOL = {"msgpack": "posthouse.v2.msgpack", "json": "posthouse.v2.json"}
_BYTE_FIELDS = ("nonce", "ciphertext")


def _as_json(value: object) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(type(value))


def encode(items: object, encoding: str) -> bytes:
    """A frame's payload: `items` is one item or a list of them, byte strings are bytes."""
    if encoding == "json":
        return json.dumps(items, default=_as_json).encode()
    return msgspec.msgpack.encode(items)


def decode(payload: bytes, encoding: str) -> list[Item]:
    """The items of a frame."""
    frame = json.loads(payload) if encoding == "json" else msgspec.msgpack.decode(payload)
    items: list[Item] = frame if isinstance(frame, list) else [frame]
    if encoding == "json":
        for item in items:
            for name in _BYTE_FIELDS:
                if name in item:
                    item[name] = b64decode(item[name], validate=True)
    return items


def is_result(item: Item, status: str, **fields: object) -> None:
    """This result, with `fallback` as the table of 2.4 has it."""
    assert item["status"] == status, item
    fallback = status == "undeliverable" or (status == "rejected" and item["code"] != "invalid")
    assert item["fallback"] is fallback, item
    assert {name: item.get(name) for name in fields} == fields, item


class WireClient(WireSocket):
    """One connection of dialect v2."""

    def __init__(self, port: int, encoding: str = "msgpack", **options: Any) -> None:
        """Connect and take the challenge. `options` are those of WireSocket."""
        super().__init__(port, protocols=(PROTOCOL[encoding],), **options)
        assert self.response["sec-websocket-protocol"] == PROTOCOL[encoding]
        self.encoding = encoding
        self.inbox: deque[Item] = deque()
        self.welcome: Item = {}
        self._ref = 0
        try:
            self.challenge = self.expect("challenge")
        except BaseException:
            self.close()
            raise

    # --- items

    def send(self, *items: Item) -> None:
        """One frame: one item as it is, several as an array."""
        self.send_payload(encode(items[0] if len(items) == 1 else list(items), self.encoding))

    def send_array(self, items: list[Any]) -> None:
        """One frame with an array, however many are in it."""
        self.send_payload(encode(items, self.encoding))

    def send_payload(self, payload: bytes) -> None:
        """One message of this encoding's kind."""
        self.send_frame(TEXT if self.encoding == "json" else BINARY, payload)

    def _read(self, timeout_s: float) -> None:
        opcode, payload = self.read_message(timeout_s)
        assert opcode == (TEXT if self.encoding == "json" else BINARY)
        self.inbox.extend(decode(payload, self.encoding))

    def next_item(self, timeout_s: float = TIMEOUT_S) -> Item:
        """The next item. Raises Closed, TimeoutError."""
        while not self.inbox:
            self._read(timeout_s)
        return self.inbox.popleft()

    def expect(self, kind: str, **fields: Any) -> Item:
        """The next item, which must be of this type and have these fields."""
        item = self.next_item()
        assert item["type"] == kind, item
        assert {name: item.get(name) for name in fields} == fields, item
        return item

    def wait_for(self, kind: str, timeout_s: float = TIMEOUT_S, **fields: Any) -> Item:
        """The first item of this type with these fields; those before it stay in the inbox."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        while True:
            while seen < len(self.inbox):
                item = self.inbox[seen]
                if item["type"] == kind and all(item.get(name) == value for name, value in fields.items()):
                    del self.inbox[seen]
                    return item
                seen += 1
            try:
                self._read(deadline - time.monotonic())
            except TimeoutError:
                raise AssertionError(f"no {kind} {fields} in {list(self.inbox)[:20]}") from None

    def settle(self) -> list[Item]:
        """Everything that came before the answer to a ping sent now."""
        mark = f"settle {self.new_ref()}"
        self.send({"type": "ping", "t": mark})
        self.wait_for("pong", t=mark)
        before = list(self.inbox)
        self.inbox.clear()
        return before

    def read_to_close(self) -> tuple[list[Item], Closed]:
        """All items until the relay closes the connection, and how it does."""
        while True:
            try:
                self._read(TIMEOUT_S)
            except Closed as closed:
                return list(self.inbox), closed

    # --- opening

    def hello_item(self, key: Key | None = None, **fields: Any) -> Item:
        """The hello that answers this connection's challenge."""
        item: Item = {"type": "hello", "client": "outside tests"}
        if key is not None:
            item["key"] = key.public
            item["signature"] = key.sign(self.challenge["audience"], self.challenge["nonce"])
        return item | fields

    def open(self, key: Key | None = None, **fields: Any) -> WireClient:
        """Say hello and take the welcome."""
        self.send(self.hello_item(key, **fields))
        self.welcome = self.expect("welcome")
        return self

    # --- requests

    def new_ref(self) -> int:
        """A ref that this connection has not used."""
        self._ref += 1
        return self._ref

    def request(self, kind: str, **fields: Any) -> int:
        """Send an item with a new ref; the ref."""
        ref = self.new_ref()
        self.send({"type": kind, "ref": ref, **fields})
        return ref

    def subscribe(self, **fields: Any) -> tuple[Item, list[Item]]:
        """Subscribe and read to `caught_up`: the answer and the backlog."""
        ref = self.request("subscribe", **fields)
        answer = self.wait_for("subscribed", ref=ref)
        self.wait_for("caught_up", ref=ref)
        backlog = [item for item in self.inbox if item["type"] == "message"]
        self.inbox = deque(item for item in self.inbox if item["type"] != "message")
        return answer, backlog

    def subscribe_without_waiting(self, **fields: Any) -> int:
        """Subscribe and read to the answer: the window may be too small for the backlog. Its ref."""
        ref = self.request("subscribe", **fields)
        self.wait_for("subscribed", ref=ref)
        return ref

    def publish(self, ciphertext: bytes, **fields: Any) -> int:
        """Send a publish; its ref."""
        return self.request("publish", ciphertext=ciphertext, **fields)

    def result(self, ref: int) -> Item:
        """The result of that publish."""
        return self.wait_for("result", ref=ref)

    def post(self, ciphertext: bytes, **fields: Any) -> Item:
        """Publish and wait for the result; its id is checked."""
        item = self.result(self.publish(ciphertext, **fields))
        assert item["id"] == message_id(ciphertext)
        return item

    def ack(self, *ids: str) -> None:
        """Acknowledge."""
        self.send({"type": "ack", "ids": list(ids)})

    def nack(self, code: str, *ids: str, **fields: Any) -> None:
        """Refuse."""
        self.send({"type": "nack", "ids": list(ids), "code": code, **fields})

    def message(self, ciphertext: bytes | None = None) -> Item:
        """The next message (passing others over), or the one with that ciphertext."""
        wanted: Item = {} if ciphertext is None else {"ciphertext": ciphertext}
        return self.wait_for("message", **wanted)


def leave(sender: WireClient, recipient: str, *ciphertexts: bytes) -> None:
    """Store messages for somebody who is away."""
    refs = [sender.publish(ciphertext, recipient=recipient) for ciphertext in ciphertexts]
    assert [sender.result(ref)["status"] for ref in refs] == ["stored"] * len(refs)


def texts(messages: list[Item]) -> list[bytes]:
    """The ciphertexts of the messages among these items."""
    return [message["ciphertext"] for message in messages if message["type"] == "message"]


def wait_for_pending(client: WireClient, count: int) -> None:
    """Until `status` says that so many messages wait: an ack is counted when its commit is done."""
    deadline = time.monotonic() + TIMEOUT_S
    while (pending := client.wait_for("status", ref=client.request("status"))["pending"]["count"]) != count:
        assert time.monotonic() < deadline, pending

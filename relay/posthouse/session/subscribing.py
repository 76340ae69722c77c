"""The checks of ``subscribe`` and ``unsubscribe`` (docs/protocol.md 2.2): pure functions, from request to command."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from posthouse.exchange import Attend
from posthouse.identity import Address, BucketKey, InvalidIdentity, bucket_key, canonical_address
from posthouse.session.settings import Policy
from posthouse.wire.codes import Code
from posthouse.wire.messages import Subscribe, Unsubscribe

MIN_READER_CHARS: Final = 16
"""An anonymous reader name is the only secret of its marks."""
MAX_UNSUBSCRIBED: Final = 1024
"""Names in one unsubscribe, where a connection may not read more: parsing them is dear."""


class Refused(Exception):
    """A request that cannot be served: nothing of it is."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def checked_subscribe(
    item: Subscribe, address: Address | None, policy: Policy, reading: Set[BucketKey]
) -> Attend:
    """The command for a subscribe of a session that has proved ``address`` and reads these buckets already.

    Raises Refused.
    """
    addresses = _proved(item, address)
    buckets = _buckets(item.buckets, policy, reading)
    return Attend(item.ref, addresses, buckets, _reader_name(item, address), item.live)


def checked_unsubscribe(item: Unsubscribe, policy: Policy) -> Unsubscribe:
    """The same unsubscribe with canonical names, each once, and None where it names nothing. Raises Refused."""
    limit = max(MAX_UNSUBSCRIBED, policy.buckets_per_connection)
    if len(item.addresses or ()) + len(item.buckets or ()) > limit:
        raise Refused(Code.INVALID, f"one unsubscribe may name {limit}")
    try:
        item.addresses = list({canonical_address(text) for text in item.addresses or ()}) or None
        item.buckets = list({bucket_key(text) for text in item.buckets or ()}) or None
    except InvalidIdentity as error:
        raise Refused(Code.INVALID, error.what) from None
    return item


def _proved(item: Subscribe, address: Address | None) -> list[Address]:
    """The addresses that a subscribe names or stands for."""
    if not item.addresses and item.buckets:
        return []
    if not item.addresses and address is None:
        raise Refused(Code.INVALID, "without a key there is no address: name buckets")
    for text in item.addresses or ():
        try:
            proved = canonical_address(text) == address
        except InvalidIdentity:
            proved = False
        if not proved:
            raise Refused(Code.NOT_OWNER, "an address is not that of the key proved here")
    assert address is not None
    return [address]


def _buckets(texts: list[str] | None, policy: Policy, reading: Set[BucketKey]) -> list[BucketKey]:
    """The buckets that a subscribe names, once each."""
    if not texts:
        return []
    if not policy.read_buckets:
        raise Refused(Code.RESTRICTED, "this kind of connection may not read buckets")
    # Counted before they are parsed: parsing is dear, and a frame holds many.
    limit = policy.buckets_per_connection
    wanted = set(texts)
    if len(wanted | reading) > limit:
        raise Refused(Code.QUOTA, f"one connection may read {limit} buckets")
    try:
        return [bucket_key(text) for text in wanted]
    except InvalidIdentity as error:
        raise Refused(Code.INVALID, error.what) from None


def _reader_name(item: Subscribe, address: Address | None) -> str:
    """Under which name acks of buckets are kept."""
    if address is not None:
        return f"key/{address}"
    if item.reader is None or len(item.reader) < MIN_READER_CHARS:
        raise Refused(Code.INVALID, f"without a key a reader of {MIN_READER_CHARS} characters is needed")
    return f"name/{item.reader}"

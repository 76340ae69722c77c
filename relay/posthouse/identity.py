"""PeerIDs, buckets, device keys and the signature of ``hello``.

Invariants: one Ed25519 key has two written addresses (``Qm…`` and ``12D3KooW…``) and one
*canonical* address, the ``Qm…`` form, which alone names a mailbox. A bucket is a base58btc
multihash; a *prefix* is the number it stands for, when it is a bucket of addresses at all.
No clock, no randomness and no I/O: a seed for a new key comes from the caller.

Source: docs/protocol.md 0 and 2.1; the libp2p PeerID and multihash specifications.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple, NewType

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Address = NewType("Address", str)
"""A canonical address: base58btc of the sha2-256 multihash of the public key protobuf."""
BucketKey = NewType("BucketKey", str)
"""A subscription key: base58btc of a well-formed multihash."""
MessageId = NewType("MessageId", str)
"""Lower-case hex sha256 of a ciphertext: 64 characters."""

HELLO_CONTEXT: Final = b"posthouse/v2/hello\n"
MAX_NAME_CHARS: Final = 128
"""Longest text looked at as an address or bucket: base58 decoding costs the square of its length."""

_SHA2_256: Final = b"\x12\x20"
_IDENTITY: Final = b"\x00"
_ED25519_PROTOBUF: Final = b"\x08\x01\x12\x20"
_WIDTHS: Final = (16, 14)
_BASE58: Final = re.compile("[1-9A-HJ-NP-Za-km-z]+")
_ADDRESS: Final = re.compile("Qm[1-9A-HJ-NP-Za-km-z]{44}|12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")
"""The shape of both forms: decoding is dear, and most of what is no address is told by this."""


class InvalidIdentity(ValueError):
    """A text is not an address or a bucket, or bytes are not a key. ``what`` says which rule failed."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Buckets(NamedTuple):
    """The two buckets of an address: of its 16-bit prefix (S = 48) and of its 14-bit prefix (S = 50)."""

    wide: BucketKey
    narrow: BucketKey


def message_id(ciphertext: bytes) -> MessageId:
    """The id of a ciphertext: lower-case hex sha256."""
    return MessageId(sha256(ciphertext).hexdigest())


def _b58decode(text: str, what: str) -> bytes:
    if not 0 < len(text) <= MAX_NAME_CHARS:
        raise InvalidIdentity(f"{what} is empty or longer than {MAX_NAME_CHARS} characters")
    if _BASE58.fullmatch(text) is None:  # the library passes over blanks at the end
        raise InvalidIdentity(f"{what} is not base58btc")
    return base58.b58decode(text)


def _b58encode(data: bytes) -> str:
    return base58.b58encode(data).decode("ascii")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned varint at ``at``: its value and the offset behind it (at most nine bytes, as multiformats has it)."""
    value = shift = 0
    for offset in range(at, min(at + 9, len(data))):
        byte = data[offset]
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            if byte == 0 and offset > at:
                break
            return value, offset + 1
        shift += 7
    raise InvalidIdentity("varint is cut short, too long or padded")


def parse_multihash(text: str, what: str = "bucket") -> bytes:
    """The bytes of a base58btc multihash whose length field is true. Raises InvalidIdentity."""
    data = _b58decode(text, what)
    try:
        _, at = _varint(data, 0)
        length, at = _varint(data, at)
    except InvalidIdentity:
        raise InvalidIdentity(f"{what} is not a multihash") from None
    if length != len(data) - at:
        raise InvalidIdentity(f"{what} is not a multihash: its length field is wrong")
    return data


@lru_cache(maxsize=65536)
def canonical_address(text: str) -> Address:
    """The canonical ``Qm…`` form of either form of an address. Raises InvalidIdentity."""
    data = _b58decode(text, "address") if _ADDRESS.fullmatch(text) else b""
    if data[:2] == _SHA2_256 and len(data) == 34:
        return Address(text)
    if data[:1] == _IDENTITY and len(data) == 38 and data[1] == 36 and data[2:6] == _ED25519_PROTOBUF:
        return _address_of_protobuf(data[2:])
    raise InvalidIdentity("address is neither a sha2-256 PeerID nor an Ed25519 identity PeerID")


@lru_cache(maxsize=65536)
def bucket_key(text: str) -> BucketKey:
    """The text as a bucket. Raises InvalidIdentity if it is not a base58btc multihash."""
    parse_multihash(text)
    return BucketKey(text)


def _address_of_protobuf(protobuf: bytes) -> Address:
    return Address(_b58encode(_SHA2_256 + sha256(protobuf).digest()))


def address_of_key(public_key: bytes) -> Address:
    """The canonical address of a 32-byte Ed25519 public key. Raises InvalidIdentity."""
    if len(public_key) != 32:
        raise InvalidIdentity("an Ed25519 public key has 32 bytes")
    return _address_of_protobuf(_ED25519_PROTOBUF + public_key)


def identity_address_of_key(public_key: bytes) -> str:
    """The ``12D3KooW…`` form of a 32-byte Ed25519 public key's address. Raises InvalidIdentity."""
    if len(public_key) != 32:
        raise InvalidIdentity("an Ed25519 public key has 32 bytes")
    return _b58encode(_IDENTITY + b"\x24" + _ED25519_PROTOBUF + public_key)


def is_address(text: str) -> bool:
    """Whether a text is an address in either form."""
    try:
        canonical_address(text)
    except InvalidIdentity:
        return False
    return True


def address_digest(address: Address) -> bytes:
    """The 32-byte sha2-256 digest inside a canonical address."""
    return base58.b58decode(address)[2:]


def _bucket_multihash(number: int) -> bytes:
    return _SHA2_256 + sha256(number.to_bytes(8, "big")).digest()


@lru_cache(maxsize=8192)
def _bucket_of_number(number: int) -> BucketKey:
    return BucketKey(_b58encode(_bucket_multihash(number)))


def address_prefix(address: Address) -> int:
    """The 16-bit prefix of a canonical address; its 14-bit prefix is this shifted right by two."""
    return int.from_bytes(address_digest(address)[:2], "big")


def buckets_of_prefix(prefix: int) -> Buckets:
    """Both buckets of all addresses with a 16-bit prefix."""
    return Buckets(_bucket_of_number(prefix), _bucket_of_number(prefix >> 2))


def buckets_of_address(address: Address) -> Buckets:
    """Both buckets of a canonical address (docs/protocol.md 0)."""
    return buckets_of_prefix(address_prefix(address))


@lru_cache(maxsize=1)
def _prefixes() -> dict[bytes, int]:
    return {_bucket_multihash(number): number for number in range(1 << max(_WIDTHS))}


def bucket_prefixes(bucket: BucketKey) -> tuple[int, ...]:
    """The 16-bit address prefixes that a bucket covers, ascending; empty for a bucket of no address.

    The number behind a bucket does not say its width: a number below 2¹⁴ is a bucket under both,
    so that bucket covers its own 16-bit prefix and the four below its 14-bit one.
    The first call builds a table of 65,536 hashes (about 0.1 s): ``warm_bucket_table`` does it at start.
    """
    number = _prefixes().get(base58.b58decode(bucket))
    if number is None:
        return ()
    covered = {number}
    if number < 1 << min(_WIDTHS):
        covered.update(range(number << 2, (number << 2) + 4))
    return tuple(sorted(covered))


def warm_bucket_table() -> None:
    """Build the table behind ``bucket_prefixes`` now rather than at its first use."""
    _prefixes()


def hello_payload(audience: str, nonce: bytes) -> bytes:
    """What a client signs to prove its key to one relay (docs/protocol.md 2.1)."""
    return HELLO_CONTEXT + audience.encode() + b"\n" + nonce


def verify_hello(public_key: bytes, signature: bytes, audience: str, nonce: bytes) -> bool:
    """Whether ``signature`` is the key's over this relay's challenge. False for malformed keys too."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, hello_payload(audience, nonce))
    except (InvalidSignature, ValueError):
        return False
    return True


class DeviceKey:
    """An Ed25519 key pair of a client, from its 32-byte seed."""

    __slots__ = ("_private", "public_key", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise InvalidIdentity("a key seed has 32 bytes")
        self.seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def address(self) -> Address:
        """The canonical address."""
        return address_of_key(self.public_key)

    @property
    def addresses(self) -> tuple[str, str]:
        """Both written forms of the address, canonical first."""
        return self.address, identity_address_of_key(self.public_key)

    def sign_hello(self, audience: str, nonce: bytes) -> bytes:
        """The 64-byte signature for ``hello``."""
        return self._private.sign(hello_payload(audience, nonce))

    def __repr__(self) -> str:
        return f"DeviceKey({self.address})"

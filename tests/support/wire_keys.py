"""Keys, addresses and buckets by hand, as docs/protocol.md 0 and 2.1 say: none of the relay's own code is used."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_DIGITS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SHA2_256 = bytes([0x12, 32])
_IDENTITY = bytes([0x00, 36])
_ED25519_PUBLIC_KEY = bytes([0x08, 0x01, 0x12, 32])


def base58(data: bytes) -> str:
    """base58btc."""
    number, text = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, 58)
        text = _DIGITS[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def sha2_multihash(data: bytes) -> str:
    """base58btc of the sha2-256 multihash of `data`."""
    return base58(_SHA2_256 + sha256(data).digest())


def bucket_of_number(number: int) -> str:
    """The bucket of a prefix: the number as 8 big-endian bytes, hashed."""
    return sha2_multihash(number.to_bytes(8))


def message_id(ciphertext: bytes) -> str:
    """The id of a message."""
    return sha256(ciphertext).hexdigest()


class Key:
    """An Ed25519 key and what follows from it."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()
        protobuf = _ED25519_PUBLIC_KEY + self.public
        self.address = sha2_multihash(protobuf)
        """The canonical form, Qm…"""
        self.identity_address = base58(_IDENTITY + protobuf)
        """The other form, 12D3KooW…"""
        prefix = int.from_bytes(sha256(protobuf).digest()[:8])
        self.bucket_14 = bucket_of_number(prefix >> 50)
        self.bucket_16 = bucket_of_number(prefix >> 48)

    def sign(self, audience: str, nonce: bytes) -> bytes:
        """The signature of a hello."""
        return self._private.sign(b"posthouse/v2/hello\n" + audience.encode() + b"\n" + nonce)


def named_key(name: str) -> Key:
    """The same key for the same name in every run: by chance two addresses would sometimes share a bucket."""
    return Key(sha256(b"a key of the tests: " + name.encode()).digest())

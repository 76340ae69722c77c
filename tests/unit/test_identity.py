"""Addresses, buckets and the signature of hello (docs/protocol.md 0 and 2.1), held against given vectors."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from posthouse.identity import (
    DeviceKey,
    InvalidIdentity,
    address_of_key,
    address_prefix,
    bucket_key,
    bucket_prefixes,
    buckets_of_address,
    canonical_address,
    identity_address_of_key,
    is_address,
    message_id,
    parse_multihash,
    verify_hello,
)

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data/identity_vectors.json").read_text())
KEYED = [vector for vector in VECTORS if "key" in vector]

every_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
every_key = pytest.mark.parametrize("vector", KEYED, ids=lambda vector: vector["name"])


@every_vector
def test_both_forms_of_an_address_are_one_mailbox(vector: dict[str, Any]) -> None:
    canonical = vector["addresses"][0]
    assert {canonical_address(text) for text in vector["addresses"]} == {canonical}


@every_vector
def test_an_address_has_the_buckets_of_both_widths(vector: dict[str, Any]) -> None:
    buckets = buckets_of_address(canonical_address(vector["addresses"][-1]))
    assert buckets.wide == vector["buckets"]["16 bits"]
    assert buckets.narrow == vector["buckets"]["14 bits"]


@every_vector
def test_a_bucket_knows_the_addresses_that_it_covers(vector: dict[str, Any]) -> None:
    address = canonical_address(vector["addresses"][0])
    buckets, prefix = buckets_of_address(address), address_prefix(address)
    assert prefix in bucket_prefixes(buckets.wide)
    narrow = bucket_prefixes(buckets.narrow)
    assert prefix in narrow
    assert {prefix >> 2 << 2 | low for low in range(4)} <= set(narrow)


def test_a_bucket_of_no_address_covers_nothing() -> None:
    assert bucket_prefixes(bucket_key(KEYED[0]["addresses"][0])) == ()


@given(prefix=st.integers(0, 2**16 - 1), tail=st.binary(min_size=30, max_size=30))
def test_a_bucket_covers_exactly_the_addresses_that_are_in_it(prefix: int, tail: bytes) -> None:
    text = base58.b58encode(b"\x12\x20" + prefix.to_bytes(2, "big") + tail).decode()
    buckets = buckets_of_address(canonical_address(text))
    for bucket in (buckets.wide, buckets.narrow):
        for covered in {*bucket_prefixes(bucket), prefix ^ 0x8000}:
            other = base58.b58encode(b"\x12\x20" + covered.to_bytes(2, "big") + bytes(30)).decode()
            its_own = buckets_of_address(canonical_address(other))
            inside = bucket in (its_own.wide, its_own.narrow)
            assert inside == (covered in bucket_prefixes(bucket))


@every_key
def test_a_seed_gives_its_key_and_both_addresses(vector: dict[str, Any]) -> None:
    key = DeviceKey(bytes.fromhex(vector["key"]["seed_hex"]))
    assert key.public_key.hex() == vector["key"]["public_hex"]
    assert list(key.addresses) == vector["addresses"]
    assert [address_of_key(key.public_key), identity_address_of_key(key.public_key)] == vector["addresses"]


@every_key
def test_hello_is_signed_over_context_audience_and_nonce(vector: dict[str, Any]) -> None:
    key = DeviceKey(bytes.fromhex(vector["key"]["seed_hex"]))
    said = vector["hello"]
    nonce, signature = bytes.fromhex(said["nonce_hex"]), base64.b64decode(said["signature_base64"])
    assert key.sign_hello(said["audience"], nonce) == signature
    assert verify_hello(key.public_key, signature, said["audience"], nonce)
    assert not verify_hello(key.public_key, signature, "elsewhere.example", nonce)
    assert not verify_hello(key.public_key, signature, said["audience"], bytes(32))
    assert not verify_hello(DeviceKey(bytes(32)).public_key, signature, said["audience"], nonce)
    assert not verify_hello(key.public_key, bytes(64), said["audience"], nonce)


@pytest.mark.parametrize("key", [b"", b"\xff" * 32, bytes(31)])
def test_a_malformed_key_proves_nothing(key: bytes) -> None:
    assert not verify_hello(key, bytes(64), "x", bytes(32))


def test_a_key_shows_its_address_and_never_its_seed() -> None:
    key = DeviceKey(b"s" * 32)
    assert repr(key) == f"DeviceKey({key.address})"


GOOD = KEYED[0]["addresses"][0]
SECP256K1 = base58.b58encode(b"\x00\x25\x08\x02\x12\x21" + b"\x02" * 33).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        GOOD + " ",
        " " + GOOD,
        GOOD + "\n",
        GOOD[:-1],
        GOOD + "1",
        GOOD.replace("Q", "0", 1),
        "Q\u00e9",
        "\ud800",
        "1" * 128,
        "z" * 129,
        "z" * 1_000_000,
        SECP256K1,
        base58.b58encode(b"\x12\x20" + bytes(31)).decode(),
        base58.b58encode(b"\x00\x24" + b"\x08\x01\x12\x21" + bytes(32)).decode(),
    ],
    ids=repr,
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert not is_address(text)
    with pytest.raises(InvalidIdentity):
        canonical_address(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x12",
        b"\x12\x20",
        b"\x12\x20" + bytes(31),
        b"\x12\x20" + bytes(33),
        b"\x80\x00\x00",
        b"\x80" * 12,
        b"\x12\x81\x00\x00",
    ],
    ids=repr,
)
def test_a_multihash_whose_lengths_are_wrong_is_no_bucket(data: bytes) -> None:
    with pytest.raises(InvalidIdentity):
        bucket_key(base58.b58encode(data).decode())


@given(code=st.integers(0, 2**40), digest=st.binary(max_size=70))
def test_any_well_formed_multihash_is_a_bucket(code: int, digest: bytes) -> None:
    data = b""
    while True:
        data += bytes([code & 0x7F | (0x80 if code > 0x7F else 0)])
        code >>= 7
        if not code:
            break
    data += bytes([len(digest)]) + digest
    text = base58.b58encode(data).decode()
    assert parse_multihash(text) == data
    assert bucket_key(text) == text


@given(st.text(max_size=140))
def test_no_text_makes_identity_raise_anything_else(text: str) -> None:
    for parse in (canonical_address, bucket_key):
        try:
            parse(text)
        except InvalidIdentity as error:
            assert error.what


def test_an_id_is_the_lower_case_hex_of_sha256() -> None:
    assert message_id(b"abc") == hashlib.sha256(b"abc").hexdigest()

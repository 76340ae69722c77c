"""How hosts are written in hello's audience (docs/protocol.md 2.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from posthouse.wire.audience import audience_of, parse_authority

NAMES = ["relay.example", "relay.example:9000", "[2001:db8::1]:8080"]


@pytest.mark.parametrize(
    ("host", "audience"),
    [
        ("relay.example", "relay.example"),
        ("Relay.EXAMPLE", "relay.example"),
        ("relay.example:443", "relay.example"),
        ("relay.example:80", "relay.example"),
        ("relay.example:9000", "relay.example:9000"),
        ("[2001:DB8::1]:8080", "[2001:db8::1]:8080"),
        ("[2001:db8:0::1]:8080", "[2001:db8::1]:8080"),
    ],
)
def test_a_host_that_is_a_public_name_is_the_audience(host: str, audience: str) -> None:
    assert audience_of(host, ["x.example", *NAMES], "0.0.0.0:8080") == audience


@pytest.mark.parametrize(
    "host", ["evil.example", "relay.example:9001", "", None, "a b", "localhost", "127.0.0.1:8080", "[::1"]
)
def test_any_other_host_gets_the_first_public_name(host: str | None) -> None:
    assert audience_of(host, ["First.example:443", *NAMES], "0.0.0.0:8080") == "first.example"


@pytest.mark.parametrize(
    ("host", "audience"),
    [
        ("localhost:1234", "localhost:1234"),
        ("LocalHost", "localhost"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("127.8.9.1:1", "127.8.9.1:1"),
        ("[::1]:8080", "[::1]:8080"),
        ("10.0.0.5:8080", "10.0.0.5:8080"),
        ("10.0.0.5:8081", "10.0.0.5:8080"),
        ("evil.example", "10.0.0.5:8080"),
        (None, "10.0.0.5:8080"),
    ],
)
def test_without_public_names_the_listen_address_and_loopback_are_known(
    host: str | None, audience: str
) -> None:
    assert audience_of(host, [], "10.0.0.5:8080") == audience


@pytest.mark.parametrize(
    "text",
    ["", " ", ":80", "a:b", "a:0", "a:65536", "a:1:2", "::1", "[::1", "[::1]x", "[x]", "a/b", "é", "a@b"],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    assert parse_authority(text) is None


@given(st.text(max_size=300))
def test_a_host_in_its_normal_form_stays_as_it_is(text: str) -> None:
    authority = parse_authority(text)
    assert authority is None or parse_authority(str(authority)) == authority

"""The choice of the dialect (docs/protocol.md 1)."""

import pytest
from posthouse.session.dialect import Dialect, Refusal, choose_dialect

MSGPACK, JSON = "posthouse.v2.msgpack", "posthouse.v2.json"


@pytest.mark.parametrize(
    ("offered", "dialect"),
    [
        ([MSGPACK], Dialect.V2_MSGPACK),
        ([JSON], Dialect.V2_JSON),
        ([JSON, MSGPACK], Dialect.V2_JSON),
        ([MSGPACK, JSON], Dialect.V2_MSGPACK),
        (["chat", JSON], Dialect.V2_JSON),
        ([], Dialect.LEGACY),
    ],
)
def test_the_clients_first_known_subprotocol_wins(offered: list[str], dialect: Dialect) -> None:
    assert choose_dialect(offered, legacy_enabled=True) is dialect


@pytest.mark.parametrize("offered", [["chat"], ["POSTHOUSE.V2.JSON"], [""], ["legacy"]])
def test_only_unknown_subprotocols_are_refused(offered: list[str]) -> None:
    assert isinstance(choose_dialect(offered, legacy_enabled=True), Refusal)


def test_no_subprotocol_is_refused_where_legacy_is_off() -> None:
    assert isinstance(choose_dialect([], legacy_enabled=False), Refusal)
    assert choose_dialect([JSON], legacy_enabled=False) is Dialect.V2_JSON

"""Tables and figures as Markdown."""

from bench.results import Spread

NONE = "–"


def table(header: list[str], rows: list[list[str]]) -> str:
    """The first column is text, the others are figures."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def number(value: float) -> str:
    """Three figures are all that such a measurement gives."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def low_median(found: Spread | None) -> str:
    return NONE if found is None else f"{number(found.min)} / {number(found.median)}"


def high_median(found: Spread | None) -> str:
    return NONE if found is None else f"{number(found.max)} / {number(found.median)}"

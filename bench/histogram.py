"""Histograms of times as an SVG: a panel each, counts as bars over a logarithmic axis. Plain text out, no library.

Colours are in a style sheet with a dark variant, background and all, so that the picture can be read on any page.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

WIDTH, MARGIN, GAP = 1080, 32, 48
COLUMNS = 2
PANEL_WIDTH = (WIDTH - 2 * MARGIN - GAP) / COLUMNS
HEAD, PLOT, FOOT = 52, 84, 40
LEGEND = 30
BINS_PER_DECADE: Final = 20
SMALLEST_MS: Final = 1.0
"""What is shorter is drawn here."""
LOWEST: Final = 1.5
"""Height of a bar that holds anything: one client of hundreds has to be seen."""
STYLE: Final = """<style>
.page { fill: #ffffff } .text { fill: #1a1a1a } .faint { fill: #555555 } .grid { stroke: #dddddd }
.axis { stroke: #888888 } .first { fill: #1b6ca8 } .second { fill: #c9822b; fill-opacity: 0.25; stroke: #b06a14 }
.first-bound { stroke: #1b6ca8 } .second-bound { stroke: #b06a14 }
.first-text { fill: #1b6ca8 } .second-text { fill: #945609 }
@media (prefers-color-scheme: dark) {
.page { fill: #14181d } .text { fill: #f0f0f0 } .faint { fill: #b0b0b0 } .grid { stroke: #343a42 }
.axis { stroke: #888888 } .first { fill: #4b93c9 } .second { fill: #e0a050; fill-opacity: 0.25; stroke: #e8b06a }
.first-bound { stroke: #6fb0e0 } .second-bound { stroke: #e8b06a }
.first-text { fill: #86bfe8 } .second-text { fill: #e8b06a }
}
</style>"""
KINDS: Final = ("first", "second")
"""Classes of the two series of a panel: filled bars, and bars drawn over them that let them through."""


@dataclass(frozen=True)
class Series:
    """Times of one sort."""

    label: str
    values_ms: list[float]
    bound_ms: float | None = None
    """Drawn as a line; once, if it is that of both series."""
    bound_text: str = ""


@dataclass(frozen=True)
class Histogram:
    """One panel."""

    title: str
    first: Series
    second: Series

    @property
    def series(self) -> tuple[Series, Series]:
        """Both."""
        return (self.first, self.second)


def bins(values_ms: list[float]) -> dict[int, int]:
    """How many values there are in each bin that holds any; bin n begins at 10^(n / BINS_PER_DECADE) ms."""
    return dict(
        Counter(math.floor(BINS_PER_DECADE * math.log10(max(value, SMALLEST_MS))) for value in values_ms)
    )


def svg(histograms: list[Histogram], label: str) -> str:
    """All panels have the same axis of times. ``label`` says what the picture shows to those who do not see it."""
    axis = _Axis.over(
        [
            value
            for one in histograms
            for series in one.series
            for value in (*series.values_ms, *_bound(series))
        ]
    )
    rows = math.ceil(len(histograms) / COLUMNS)
    height = MARGIN + LEGEND + rows * (HEAD + PLOT + FOOT) + MARGIN // 2
    parts = _legend(histograms[0]) if histograms else []
    for number, one in enumerate(histograms):
        left = MARGIN + number % COLUMNS * (PANEL_WIDTH + GAP)
        parts += _panel(one, axis, left, MARGIN + LEGEND + number // COLUMNS * (HEAD + PLOT + FOOT))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        f' font-family="system-ui, sans-serif" font-size="12" role="img" aria-label={quoteattr(label)}>\n{STYLE}\n'
        f'<rect class="page" width="{WIDTH}" height="{height}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


@dataclass(frozen=True)
class _Axis:
    """Powers of ten from which and to which times are drawn."""

    first: int
    last: int

    @classmethod
    def over(cls, values_ms: list[float]) -> _Axis:
        logs = [math.log10(max(value, SMALLEST_MS)) for value in values_ms] or [0.0]
        return cls(math.floor(min(logs)), math.floor(max(logs)) + 1)

    def at(self, exponent: float) -> float:
        """How far from the left end of a panel a power of ten is."""
        return PANEL_WIDTH * (exponent - self.first) / (self.last - self.first)


def _bound(series: Series) -> list[float]:
    return [] if series.bound_ms is None else [series.bound_ms]


def _legend(histogram: Histogram) -> list[str]:
    parts, left = [], MARGIN
    for kind, series in zip(KINDS, histogram.series, strict=True):
        parts += [
            f'<rect class="{kind}" data-of="legend" x="{left}" y="{MARGIN - 6}" width="12" height="12"/>',
            f'<text class="text" x="{left + 18}" y="{MARGIN + 5}">{escape(series.label)}</text>',
        ]
        left += 260
    return parts


def _panel(histogram: Histogram, axis: _Axis, left: float, top: float) -> list[str]:
    base = top + HEAD + PLOT
    counts = [bins(series.values_ms) for series in histogram.series]
    most = max((count for found in counts for count in found.values()), default=1)
    parts = [
        f'<text class="text" font-size="13" font-weight="600" x="{left:.1f}" y="{top + 14:.1f}">'
        f"{escape(histogram.title)}</text>",
        *_ticks(axis, left, base),
        f'<text class="faint" x="{left - 5:.1f}" y="{base - PLOT + 9:.1f}" text-anchor="end">{most}</text>',
    ]
    width = axis.at(axis.first + 1 / BINS_PER_DECADE)
    for kind, found in zip(KINDS, counts, strict=True):
        for number, count in sorted(found.items()):
            x, height = left + axis.at(number / BINS_PER_DECADE), max(PLOT * count / most, LOWEST)
            parts.append(
                f'<rect class="{kind}" data-of="bin" x="{x + 0.5:.1f}" y="{base - height:.1f}" width="{width - 1:.1f}"'
                f' height="{height:.1f}"/>'
            )
    for row, (kind, series) in enumerate(zip(KINDS, histogram.series, strict=True)):
        if row == 0 or series.bound_ms != histogram.first.bound_ms:
            parts += _line(kind, series, axis, left, base, row)
    return parts


def _ticks(axis: _Axis, left: float, base: float) -> list[str]:
    parts = []
    for exponent in range(axis.first, axis.last + 1):
        x = left + axis.at(exponent)
        text = f"{10**exponent} ms" if exponent < 3 else f"{10 ** (exponent - 3)} s"
        parts += [
            f'<line class="grid" x1="{x:.1f}" y1="{base - PLOT:.1f}" x2="{x:.1f}" y2="{base + 4:.1f}"/>',
            f'<text class="faint" x="{x:.1f}" y="{base + 17:.1f}" text-anchor="middle">{text}</text>',
        ]
    end = left + PANEL_WIDTH
    parts.append(f'<line class="axis" x1="{left:.1f}" y1="{base:.1f}" x2="{end:.1f}" y2="{base:.1f}"/>')
    return parts


def _line(kind: str, series: Series, axis: _Axis, left: float, base: float, row: int) -> list[str]:
    """The bound and its text, each series' in a row of its own, so that close ones do not cover each other."""
    if series.bound_ms is None:
        return []
    x = left + axis.at(math.log10(series.bound_ms))
    anchor, aside = ("end", -5) if row == 0 else ("start", 5)
    y = base - PLOT - 18 + 12 * row
    return [
        f'<line class="{kind}-bound" stroke-width="1.5" stroke-dasharray="5 3" x1="{x:.1f}" y1="{y - 8:.1f}"'
        f' x2="{x:.1f}" y2="{base:.1f}"/>',
        f'<text class="{kind}-text" font-size="11" x="{x + aside:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(series.bound_text)}</text>",
    ]

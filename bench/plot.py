"""An SVG of the comparison: one panel a figure, one bar a server. Plain text out, no library."""

from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench import results as r
from bench.plan import SUBJECTS
from bench.results import Figure, Figures, ResultFile
from bench.tables import number

WIDTH, LABEL_WIDTH, BAR_WIDTH, GAP = 1080, 196, 250, 34
ROW, HEAD, MARGIN = 22, 44, 24
COLUMNS = 2
COLOURS = {
    "posthouse-arrays": "#1b6ca8", "posthouse-single": "#4b93c9", "posthouse-json": "#86b9de",
    "posthouse-postgres": "#34588a", "raw-inserts": "#9a9a9a", "posthouse-active": "#1b6ca8",
    "posthouse-front": "#4b93c9",
    "mosquitto": "#c9822b", "nats": "#5f9e57", "nats-files": "#9cc496",
}  # fmt: skip

SHORT = {
    "posthouse-arrays": "posthouse, arrays",
    "posthouse-single": "posthouse, one a frame",
    "posthouse-json": "posthouse, JSON",
    "posthouse-postgres": "posthouse, PostgreSQL",
    "raw-inserts": "raw inserts, PostgreSQL",
    "nats": "NATS (acks in memory)",
    "nats-files": "NATS (acks in files)",
}

FOOTNOTE = (
    "A kept message is synced to disk by posthouse and PostgreSQL, in memory in mosquitto, in the page cache in NATS."
    " Medians; less is better."
)


@dataclass(frozen=True)
class Panel:
    """One figure of one case."""

    title: str
    case: str
    figure: Figure
    unit: str


@dataclass(frozen=True)
class Bar:
    label: str
    colour: str
    value: float


PANELS = (
    Panel("W1, window 64: server CPU per message", "w1-64", r.online_cpu_us, "µs"),
    Panel("W1, window 8: server CPU per message", "w1-8", r.online_cpu_us, "µs"),
    Panel("W1, 5,000/s: server CPU per message", "w1-5k", r.online_cpu_us, "µs"),
    Panel("W1, 20,000/s: server CPU per message", "w1-20k", r.online_cpu_us, "µs"),
    Panel("W2, readers offline: CPU to keep a message", "w2", r.offline_cpu_us, "µs"),
    Panel("W2: CPU to keep and hand over a message", "w2", r.kept_and_drained_cpu_us, "µs"),
    Panel("W1, 5,000/s: publish → result, p99", "w1-5k", r.result_p99_ms, "ms"),
    Panel("W3: memory of an idle connection", "w3", r.idle_kib, "KiB"),
)


def svg(result: ResultFile) -> str:
    """Bars are the medians of the repeats; panels with nothing measured are left out."""
    figures = Figures(result)
    filled = [(panel, bars) for panel in PANELS if (bars := _bars(panel, figures))]
    rows = [filled[i : i + COLUMNS] for i in range(0, len(filled), COLUMNS)]
    parts: list[str] = []
    top = MARGIN
    for row in rows:
        for column, (panel, bars) in enumerate(row):
            left = MARGIN + column * (WIDTH - 2 * MARGIN + GAP) // COLUMNS
            parts += _panel(panel, bars, left, top)
        top += HEAD + ROW * max(len(bars) for _, bars in row) + GAP
    parts.append(f'<text x="{MARGIN}" y="{top}" font-size="12" fill="#555555">{escape(FOOTNOTE)}</text>')
    top += MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
        ' font-family="system-ui, sans-serif" font-size="13" role="img"'
        ' aria-label="Server CPU per message, latency and memory of each server">\n'
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _bars(panel: Panel, figures: Figures) -> list[Bar]:
    bars = []
    for subject in SUBJECTS:
        found = figures.spread(panel.case, subject.key, panel.figure)
        if found is not None:
            bars.append(Bar(SHORT.get(subject.key, subject.title), COLOURS[subject.key], found.median))
    return bars


def _panel(panel: Panel, bars: list[Bar], left: int, top: int) -> list[str]:
    scale = BAR_WIDTH / (max(bar.value for bar in bars) or 1.0)
    parts = [f'<text x="{left}" y="{top + 18}" font-weight="600" fill="#1a1a1a">{escape(panel.title)}</text>']
    for i, bar in enumerate(bars):
        y = top + HEAD - 12 + i * ROW
        length = max(bar.value * scale, 1)
        start = left + LABEL_WIDTH
        parts += [
            f'<text x="{start - 8}" y="{y + 13}" text-anchor="end" fill="#333333">{escape(bar.label)}</text>',
            f'<rect x="{start}" y="{y}" width="{length:.1f}" height="{ROW - 6}" rx="2" fill="{bar.colour}"/>',
            f'<text x="{start + length + 6:.1f}" y="{y + 13}" fill="#333333">'
            f"{escape(number(bar.value))} {escape(panel.unit)}</text>",
        ]
    return parts

"""The plot of `load.py`: documents a second, memory, and how long searches took, over the minutes of a load.

python benchmarks/loadplot.py runs/load
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

WIDTH, HEIGHT, LEFT, GAP = 860, 130, 70, 56
COLOURS = ("#1f6feb", "#d1580b", "#2a8a3e")
POINTS = 160  # more cannot be told apart
Line = Sequence[tuple[float, float]]


def _path(line: Line, right: float, top: float, most: float) -> str:
    step = max(1, len(line) // POINTS)
    thin = [np.mean(line[at : at + step], axis=0) for at in range(0, len(line), step)]
    return " ".join(
        f"{LEFT + x / right * (WIDTH - LEFT):.1f},{top + HEIGHT * (1 - min(y / most, 1)):.1f}" for x, y in thin
    )


def _panel(title: str, lines: Mapping[str, Line], right: float, top: float) -> list[str]:
    most = max((y for line in lines.values() for _, y in line), default=1.0) * 1.05 or 1.0
    drawn = [f'<text x="{LEFT}" y="{top - 8}" class="title">{title}</text>']
    for share in (0, 0.5, 1):
        y = top + HEIGHT * (1 - share)
        drawn.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}" class="grid"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{most * share:,.0f}</text>')
    for at, (name, line) in enumerate(lines.items()):
        drawn.append(f'<polyline points="{_path(line, right, top, most)}" stroke="{COLOURS[at]}"/>')
        drawn.append(
            f'<text x="{WIDTH - 150 * (len(lines) - 1 - at)}" y="{top - 8}" text-anchor="end" fill="{COLOURS[at]}">'
            f"{name}</text>"
        )
    return drawn


def svg(figures: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], searches: Sequence[Mapping[str, Any]]) -> str:
    """The plot as one SVG document of fixed size."""
    phases = figures["phases"]
    start, end = phases[0][1], phases[-1][1]
    right = (end - start) / 60

    def minute(at: float) -> float:
        return (at - start) / 60

    built = [sample for sample in samples if sample["phase"] == "build"]
    rate = [
        (minute(b["at"]), (b["written"] - a["written"]) / (b["at"] - a["at"]))
        for a, b in pairwise(built)
        if b["at"] - a["at"] > 1
    ]
    memory = {
        name: [(minute(sample["at"]), sample[key]) for sample in samples]
        for name, key in (("node", "node_anon_mb"), ("its heap", "heap_mb"), ("writer", "writer_rss_mb"))
    }
    slots: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    width = max(right / POINTS, 0.25)
    for each in searches:
        if start <= each["at"] < end:
            slots[each["mode"]][int(minute(each["at"]) / width)].append(each["ms"])
    late = {
        mode: [((slot + 0.5) * width, float(np.percentile(found, 95))) for slot, found in sorted(slots[mode].items())]
        for mode in ("hybrid", "vector", "bm25")
    }
    panels = [
        ("documents a second", {"written": rate}),
        ("memory, MB", memory),
        ("search, 95th percentile, ms", late),
    ]
    drawn, tops = [], [70 + at * (HEIGHT + GAP) for at in range(len(panels))]
    bottom = tops[-1] + HEIGHT
    for at, ((name, begins), (_, ends)) in enumerate(pairwise(phases)):
        x, wide = (LEFT + minute(begins) / right * (WIDTH - LEFT), (ends - begins) / (end - start) * (WIDTH - LEFT))
        drawn.append(f'<rect x="{x:.1f}" y="40" width="{wide:.1f}" height="{bottom - 40}" class="phase{at % 2}"/>')
        drawn.append(f'<text x="{x + 2:.1f}" y="{30 - 12 * (at % 2)}">{name}</text>')
    for top, (title, lines) in zip(tops, panels, strict=True):
        drawn += _panel(title, lines, right, top)
    for share in np.linspace(0, 1, 5):
        x = LEFT + share * (WIDTH - LEFT)
        drawn.append(f'<text x="{x:.0f}" y="{bottom + 18}" text-anchor="middle">{share * right:.1f}</text>')
    drawn.append(f'<text x="{LEFT}" y="{bottom + 34}">minutes; phases stand at the top</text>')
    style = (
        "text{font:12px sans-serif}.title{font-weight:bold}polyline{fill:none;stroke-width:1.5}"
        ".grid{stroke:#ccc}.phase0{fill:#f4f6f8}.phase1{fill:#fff}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 20} {bottom + 44}" role="img" '
        f'aria-label="Load of {figures["size"]:,} products"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def plot(folder: Path) -> None:
    """Write load.svg of what lies in the folder."""
    figures, samples = (msgspec.json.decode((folder / name).read_bytes()) for name in ("load.json", "samples.json"))
    searches = [msgspec.json.decode(line) for line in (folder / "searches.jsonl").read_bytes().splitlines()]
    (folder / "load.svg").write_text(svg(figures, samples, searches), "utf-8")


if __name__ == "__main__":
    plot(Path(sys.argv[1]))

"""The plot and the tables of `load.py`: documents a second, memory, and how long searches took.

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


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8, 10, 20, ..., so that half of it is round too."""
    size = 10.0 ** np.floor(np.log10(max(value, 1)))
    return float(next(size * step for step in (1, 2, 4, 6, 8, 10) if value <= size * step))


def _path(line: Line, right: float, top: float, most: float) -> str:
    step = max(1, len(line) // POINTS)
    thin = [np.mean(line[at : at + step], axis=0) for at in range(0, len(line), step)]
    return " ".join(
        f"{LEFT + x / right * (WIDTH - LEFT):.1f},{top + HEIGHT * (1 - min(y / most, 1)):.1f}" for x, y in thin
    )


def _panel(title: str, lines: Mapping[str, Line], right: float, top: float) -> list[str]:
    most = _round_up(max((y for line in lines.values() for _, y in line), default=1.0))
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
        mode: [
            (min((slot + 0.5) * width, right), float(np.percentile(found, 95)))
            for slot, found in sorted(slots[mode].items())
        ]
        for mode in ("hybrid", "vector", "bm25")
    }
    panels = [
        ("documents a second", {"written": rate}),
        ("memory, MB", memory),
        ("search, 95th percentile, ms", late),
    ]
    drawn, tops = [], [80 + at * (HEIGHT + GAP) for at in range(len(panels))]
    bottom = tops[-1] + HEIGHT
    for at, ((name, begins), (_, ends)) in enumerate(pairwise(phases)):
        x, wide = (LEFT + minute(begins) / right * (WIDTH - LEFT), (ends - begins) / (end - start) * (WIDTH - LEFT))
        drawn.append(f'<rect x="{x:.1f}" y="52" width="{wide:.1f}" height="{bottom - 52}" class="phase{at % 2}"/>')
        anchor = "end" if x > WIDTH - 50 else "start"
        drawn.append(f'<text x="{x + 2:.1f}" y="{12 + 12 * (at % 4)}" text-anchor="{anchor}">{name}</text>')
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


def tables(figures: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> str:
    """What a load came to, as Markdown."""
    built = [sample for sample in samples if sample["phase"] == "build" and sample["written"]]
    first, last, made = built[0], built[-1], built[-1]["written"] - built[0]["written"]
    rates = [(b["written"] - a["written"]) / (b["at"] - a["at"]) for a, b in pairwise(built) if b["at"] - a["at"] > 1]
    quarter = max(1, len(rates) // 4)
    seconds = {name: end - begin for (name, begin), (_, end) in pairwise(figures["phases"])}
    bulk = [sample["bulk_bytes"] for sample in built]
    rows = {
        "products (real; in the live index)": f"{figures['size']:,} ({figures['real']:,}; {figures['live']:,})",
        "documents a second": f"{made / (last['at'] - first['at']):.0f}",
        "the same, first and last quarter": f"{np.median(rates[:quarter]):.0f}, {np.median(rates[-quarter:]):.0f}",
        "CPU ms a document, node and writer": ", ".join(
            f"{(last[key] - first[key]) / made * 1000:.1f}" for key in ("node_cpu_s", "writer_cpu_s")
        ),
        "load average": f"{np.mean([sample['load_average'] for sample in built]):.1f}",
        "bytes that a bulk request may hold": f"{min(bulk):,} to {max(bulk):,}",
        "heap, MB, most (of)": f"{max(sample['heap_mb'] for sample in samples):.0f} ({figures['heap_mb']})",
        "garbage collection while building, s": f"{last['gc_s'] - first['gc_s']:.1f}",
        "node's memory without mapped files, MB, most": f"{max(sample['node_anon_mb'] for sample in samples):.0f}",
        "writer's memory, MB, first and last": f"{first['writer_rss_mb']:.0f}, {last['writer_rss_mb']:.0f}",
        "seconds: " + ", ".join(seconds): ", ".join(f"{each:.0f}" for each in seconds.values()),
        "scan of all ids, s": f"{figures['scan']['seconds']}",
        "bytes of an id in a set": f"{figures['scan']['bytes_each_in_a_set']}",
        **{
            f"{state}: segments, MB": f"{figures[state]['segments']}, {sum(figures[state]['mb'].values()):.0f}: "
            + ", ".join(f"{kind} {mb:.0f}" for kind, mb in figures[state]["mb"].items())
            for state in ("unmerged", "merged")
        },
    }
    lines = ["| what | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    lines += ["", "| phase | mode | searches | failed | p50 ms | p95 | p99 |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['phase']} | {row['mode']} | {row['searches']} | {len(row['failed'])} | {row['p50']} | {row['p95']} | "
        f"{row['p99']} |"
        for row in figures["searches"]
    ]
    lines += ["", "| segments | depth | recall@100 | median ms | p95 ms |", "|---|---|---|---|---|"]
    lines += [
        f"| {figures[state]['segments']} | {row['depth']:.0f} | {row['recall']:.3f} | {row['median_ms']:.1f} | "
        f"{row['p95_ms']:.1f} |"
        for state, name in (("unmerged", "recall_unmerged"), ("merged", "recall"))
        for row in figures[name]
    ]
    return "\n".join(lines) + "\n"


def plot(folder: Path) -> None:
    """Write load.svg and load.md of what lies in the folder, and print the latter."""
    figures, samples = (msgspec.json.decode((folder / name).read_bytes()) for name in ("load.json", "samples.json"))
    searches = [msgspec.json.decode(line) for line in (folder / "searches.jsonl").read_bytes().splitlines()]
    (folder / "load.svg").write_text(svg(figures, samples, searches), "utf-8")
    (folder / "load.md").write_text(tables(figures, samples), "utf-8")
    print(tables(figures, samples))


if __name__ == "__main__":
    plot(Path(sys.argv[1]))

"""The results of an evaluation as one page of HTML that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

import msgspec
import numpy as np

from reranker.evaluation.compare import HEADLINE, METRICS, Difference
from reranker.evaluation.judgments import Query
from reranker.evaluation.plots import Bar, bars, escaped, scale_of, strip
from reranker.evaluation.results import LATENCY_NOTE, Results, headline, latency
from reranker.evaluation.runs import SHOWN, Run
from reranker.evaluation.strata import language_of
from reranker.evaluation.tables import seen_sentence

MAX_QUERIES = 1_000  # that the page shows with their results, the largest differences first


class _Shown(msgspec.Struct, frozen=True):
    """A query of the page, the id of its element, and by system its difference to the baseline."""

    query: Query
    target: str
    differences: dict[str, float]


def page(results: Results) -> str:
    """The whole page. Texts of queries and products are shown as they stand, never as markup."""
    shown = _in_order(results)
    parts = [
        f"<h1>Evaluation</h1><p>{escaped(headline(results))}</p>",
        _warnings(results),
        _systems(results),
        _differences(results),
        _plots(results, shown),
        _groups(results),
        _queries(results, shown),
    ]
    body = "".join(f"{part}\n" for part in parts if part)
    style = resources.files(__package__).joinpath("report.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Evaluation: {escaped(headline(results))}</title><style>\n{style}</style></head>\n"
        f"<body><main>\n{body}</main></body></html>\n"
    )


def _in_order(results: Results) -> list[_Shown]:
    """Queries by the best other system's difference to the baseline, its largest loss first; else as they came."""
    found = results.comparison
    base = found.values.get(found.baseline, {})
    rows = [
        (
            query,
            {name: found.values[name][query.id][HEADLINE] - base[query.id][HEADLINE] for name in found.differences},
        )
        for query in results.queries
    ]
    if found.differences:
        focus = _focus(results)
        rows.sort(key=lambda row: row[1][focus])
    large = sorted(range(len(rows)), key=lambda at: -max(map(abs, rows[at][1].values()), default=0))[:MAX_QUERIES]
    kept = set(large)
    return [
        _Shown(query, f"q-{at + 1}" if at in kept else "", differences) for at, (query, differences) in enumerate(rows)
    ]


def _focus(results: Results) -> str:
    """The best system that is not the baseline."""
    found = results.comparison
    return max(found.differences, key=lambda name: found.means[name][HEADLINE])


def _warnings(results: Results) -> str:
    lines = [*results.warnings, *([seen_sentence(results.seen, len(results.queries))] if results.seen else [])]
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{items}</ul></section>' if lines else ""


def _systems(results: Results) -> str:
    found = results.comparison
    intervals = found.intervals
    scale = scale_of([end for each in intervals.values() for end in (each.low, each.high)])
    timed = any(run.took_ms for run in results.runs)
    mark = found.means.get(found.baseline, next(iter(found.means.values())))[HEADLINE]
    rows = []
    for run in results.runs:
        name, values = run.system.name, found.means[run.system.name]
        each, times = intervals[name], latency(run)
        ends = f"{each.low:.4f} to {each.high:.4f}"
        label = escaped(name) + (' <span class="tag">baseline</span>' if name == found.baseline else "")
        plot = strip(each.mean, each.low, each.high, scale, mark, f"{each.mean:.4f}, 95 % interval {ends}")
        cells = [f"{values[HEADLINE]:.4f}", ends, *(f"{values[metric]:.4f}" for metric in METRICS[1:])]
        if timed:
            cells += [f"{times['median']:.1f}", f"{times['p95']:.1f}"] if times else ["", ""]
        rows.append((label, plot, cells))
    others = [metric.replace("precision", "p") for metric in METRICS[1:]]
    heads = ["", HEADLINE, "95 % interval", *others, *(["ms", "ms, 95th"] if timed else [])]
    note = f"<p>ms: median milliseconds a query, and the 95th percentile. {escaped(LATENCY_NOTE)}</p>" if timed else ""
    return f"<section><h2>Systems</h2>{_table('Means over the queries', ['system', *heads], rows)}{note}</section>"


def _differences(results: Results) -> str:
    found = results.comparison
    if not found.differences:
        return ""
    scale = scale_of([0.0, *(end for each in found.differences.values() for end in (each.low, each.high))])
    rows = []
    for name, each in found.differences.items():
        said = f"{each.mean:+.4f}, 95 % interval {_ends(each)}"
        halves = "" if each.both_halves is None else f"{each.both_halves:.0%}"
        cells = [f"{each.mean:+.4f}", _ends(each), f"{each.p:.4f}", str(each.better), str(each.worse), halves]
        rows.append((escaped(name), strip(each.mean, each.low, each.high, scale, 0.0, said), cells))
    heads = ["system", "", "difference", "95 % interval", "p", "better", "worse", "wins both halves"]
    title = f"{HEADLINE} against {found.baseline}"
    return f"<section><h2>Differences</h2>{_table(title, heads, rows)}</section>"


def _groups(results: Results) -> str:
    """Other gains and strata: the same figures over other measures and other queries."""
    tables = []
    heads = ["system", HEADLINE, "difference", "95 % interval"]
    for text, other in results.other_gains.items():
        rows = _group_rows(text, other.means, other.differences)
        tables.append(_table(f"{HEADLINE} with gains {text}", ["gains", *heads], rows))
    for column, groups in results.strata.items():
        rows = [
            row
            for group, each in groups.items()
            for row in _group_rows(f"{group} ({each.queries})", each.means, each.differences)
        ]
        tables.append(_table(f"{HEADLINE} by {column} (queries)", [column, *heads], rows))
    return f"<section><h2>Other gains, groups of queries</h2>{''.join(tables)}</section>" if tables else ""


def _group_rows(
    group: str, means: Mapping[str, Mapping[str, float]], differences: Mapping[str, Difference]
) -> list[tuple[str, str, list[str]]]:
    rows: list[tuple[str, str, list[str]]] = []
    for name, values in means.items():
        found = differences.get(name)
        change = [f"{found.mean:+.4f}", _ends(found)] if found else ["", ""]
        # The group's name stands once, beside all of its rows.
        rows.append(("" if rows else escaped(group), escaped(name), [f"{values[HEADLINE]:.4f}", *change]))
    return rows


def _plots(results: Results, shown: Sequence[_Shown]) -> str:
    found = results.comparison
    figures = []
    for name, each in found.differences.items():
        equal = len(shown) - each.better - each.worse
        said = f"{name} against {found.baseline}: {each.better} queries better, {each.worse} worse, {equal} equal"
        drawn = bars([Bar(one.query.text, one.differences[name], one.target) for one in shown], said)
        longest = max(abs(one.differences[name]) for one in shown)
        caption = f"<figcaption>{escaped(said)}; the longest bar is {longest:.4f}</figcaption>"
        figures.append(f"<figure>{caption}{drawn}</figure>")
    if not figures:
        return ""
    hint = "A bar is a query: up where the system wins, down where it loses. It leads to the query's results below."
    return f"<section><h2>Wins and losses</h2><p>{hint}</p>{''.join(figures)}</section>"


def _queries(results: Results, shown: Sequence[_Shown]) -> str:
    titles = {product: title for run in results.runs for product, title in run.titles.items() if title}
    best = max((grade for grades in results.qrels.values() for grade in grades.values()), default=0)
    listed = [one for one in shown if one.target]
    order = f", the largest losses of {_focus(results)} first" if results.comparison.differences else ""
    cut = f" The {len(listed)} with the largest differences of {len(shown)}." if len(listed) < len(shown) else ""
    marks = (
        "A mark shows the grade, – where nobody judged; ▲ and ▼ say how many places a product moved against "
        f"{results.comparison.baseline}."
        if results.comparison.differences
        else "A mark shows the grade, – where nobody judged."
    )
    items = "".join(_query(results, one, titles, best) for one in listed)
    return f"<section><h2>Queries{escaped(order)}</h2><p>{escaped(marks + cut)}</p>{items}</section>"


def _query(results: Results, one: _Shown, titles: Mapping[str, str], best: int) -> str:
    found, query = results.comparison, one.query
    grades = results.qrels[query.id]
    base = next((run.rankings[query.id] for run in results.runs if run.system.name == found.baseline), None)
    values = " · ".join(f"{name} {each[query.id][HEADLINE]:.3f}" for name, each in found.values.items())
    lists = []
    for run in results.runs:
        name = run.system.name
        compared = base if name != found.baseline else None
        lists.append(
            f"<section><h3>{escaped(name)} <small>{found.values[name][query.id][HEADLINE]:.4f}</small></h3>"
            f"{_list(run, query.id, grades, titles, compared, best)}</section>"
        )
    return (
        f'<details><summary><span lang="{language_of(query.text)}">{escaped(query.text)}</span> '
        f"<small>{escaped(values)}</small></summary>"
        f'<div class="lists" id="{one.target}">{"".join(lists)}</div></details>\n'
    )


def _list(
    run: Run, query: str, grades: Mapping[str, int], titles: Mapping[str, str], base: Sequence[str] | None, best: int
) -> str:
    places = {product: at for at, product in enumerate(base or [])}
    items = []
    for at, product in enumerate(run.rankings[query][:SHOWN]):
        title = titles.get(product, "")
        moved = "" if base is None else _move(places[product] - at if product in places else None)
        text = f'<span lang="{language_of(title)}">{escaped(title)}</span> ' if title else ""
        items.append(f"<li>{_grade(grades.get(product), best)} {moved} {text}<code>{escaped(product)}</code></li>")
    return f"<ol>{''.join(items)}</ol>" if items else "<p>No hit.</p>"


def _grade(grade: int | None, best: int) -> str:
    if grade is None:
        return '<span class="grade unjudged" role="img" aria-label="not judged">–</span>'
    kind = "none" if grade == 0 else "best" if grade == best else "some"
    return f'<span class="grade {kind}" role="img" aria-label="grade {grade}">{grade}</span>'


def _move(places: int | None) -> str:
    """How far a product moved up against the baseline; None where the baseline does not list it."""
    if places is None:
        return '<span class="move">new</span>'
    if places == 0:
        return '<span class="move" role="img" aria-label="same place">=</span>'
    kind, mark = ("up", "▲") if places > 0 else ("down", "▼")
    said = f"{abs(places)} {'place' if abs(places) == 1 else 'places'} {kind}"
    return f'<span class="move {kind}" role="img" aria-label="{said}">{mark}{abs(places)}</span>'


def _table(title: str, heads: Sequence[str], rows: Sequence[tuple[str, str, Sequence[str]]]) -> str:
    """Rows of (label, second cell, plain cells); the first two are HTML already.

    The label names its row, and the rows after it whose label is empty.
    """
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in heads)
    starts = [at for at, row in enumerate(rows) if row[0]]
    spans = dict(zip(starts, np.diff([*starts, len(rows)]), strict=True))
    body = ""
    for at, (label, second, cells) in enumerate(rows):
        first = (
            f'<th scope="{"row" if spans[at] == 1 else "rowgroup"}" rowspan="{spans[at]}">{label}</th>' if label else ""
        )
        others = "".join(f"<td>{escaped(cell)}</td>" for cell in cells)
        body += f'<tr>{first}<td class="second">{second}</td>{others}</tr>'
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(title)}"><table>'
        f"<caption>{escaped(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _ends(found: Difference) -> str:
    return f"{found.low:+.4f} to {found.high:+.4f}"

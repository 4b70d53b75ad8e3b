"""The results of an evaluation as data: the JSON answer, and each query's values as lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from reranker.evaluation.compare import HEADLINE, METRICS, Comparison, Difference
from reranker.evaluation.results import LATENCY_NOTE, Results, latency
from reranker.evaluation.runs import DEPTH
from reranker.evaluation.strata import Stratum

_DECIMALS = 6


def as_plain(results: Results) -> dict[str, Any]:
    """The JSON answer: a key for each system, and all else under `comparison`."""
    found, options = results.comparison, results.options
    systems: dict[str, Any] = {}
    for run in results.runs:
        name = run.system.name
        interval = found.intervals[name]
        systems[name] = {
            **{metric: found.means[name][metric] for metric in METRICS},
            "queries": len(run.rankings),
            "unfinished": len(run.faults),
            f"{HEADLINE}_interval": [interval.low, interval.high],
            **({"latency_ms": latency(run)} if run.took_ms else {}),
        }
    by = {
        column: {group: _stratum(each) for group, each in groups.items()} for column, groups in results.strata.items()
    }
    comparison = {
        "metric": HEADLINE,
        "protocol": options.protocol,
        "baseline": found.baseline,
        "differences": _differences(found.differences),
        **({"by": by} if by else {}),
        **(
            {"also_gains": {text: _gains(each) for text, each in results.other_gains.items()}}
            if options.also_gains
            else {}
        ),
        **({"latency_note": LATENCY_NOTE} if any(run.took_ms for run in results.runs) else {}),
        "queries": len(results.queries),
        "gains": options.gains,
        "min_grade": options.min_grade,
        "depth": DEPTH,
        **results.about,
        "seen_in_training": results.seen,
        "warnings": results.warnings,
    }
    plain: dict[str, Any] = _rounded({**systems, "comparison": comparison})
    return plain


def write_per_query(path: Path, results: Results) -> None:
    """Each query's values under each system: JSON lines, or TSV with a header where the name ends in .tsv."""
    rows = [
        {
            "query_id": query.id,
            "query": query.text,
            "system": run.system.name,
            **{name: round(results.comparison.values[run.system.name][query.id][name], _DECIMALS) for name in METRICS},
            "rerank_status": run.statuses.get(query.id, ""),
        }
        for run in results.runs
        for query in results.queries
    ]
    with path.open("wb") as file:
        if path.suffix == ".tsv":
            file.write("\t".join(rows[0]).encode() + b"\n")
            file.writelines("\t".join(map(str, row.values())).encode() + b"\n" for row in rows)
        else:
            file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)


def _differences(differences: Mapping[str, Difference]) -> dict[str, Any]:
    return {name: msgspec.structs.asdict(each) for name, each in differences.items()}


def _gains(found: Comparison) -> dict[str, Any]:
    means = {name: values[HEADLINE] for name, values in found.means.items()}
    return {"means": means, "differences": _differences(found.differences)}


def _stratum(found: Stratum) -> dict[str, Any]:
    """A group's means by system, each with its difference to the baseline."""
    differences = {name: {"difference": each} for name, each in _differences(found.differences).items()}
    return {
        "queries": found.queries,
        **{name: {**values, **differences.get(name, {})} for name, values in found.means.items()},
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value

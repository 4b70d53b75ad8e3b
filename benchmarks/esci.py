"""How well BM25, vector, hybrid and reranked search order Amazon's Shopping Queries (ESCI).

    SHELFRANK_DATA=data python benchmarks/esci.py --ids held-out.txt

`SHELFRANK_DATA` holds a folder `esci` with products.jsonl (as the mapping `esci` names its columns), queries.tsv and
qrels.tsv (grade 3 exact, 2 substitute, 1 complement, 0 irrelevant). The public original:
`git clone https://github.com/amazon-science/esci-data`.

The catalogue is ingested first; what is stored already is skipped. Figures come with both mappings of grades to gains
that are in use: published ones were made with the gains of substitute and complement swapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from indexer.errors import InputError, ShelfrankError
from indexer.settings import load
from indexer.terminal import emit_json, out
from ingest.commands import ingest
from reranker.evaluation.command import difference_table, run_all, seen_sentence, table
from reranker.evaluation.compare import ESCI_GAINS, compare, doubts, parse_gains
from reranker.evaluation.judgments import Query, read_qrels, read_queries, some, write_run
from reranker.evaluation.runs import parse_systems, seen_in_training, trained_on
from reranker.search import Searcher

GAINS = {"E 1, S 0.1, C 0.01": ESCI_GAINS, "E 1, S 0.01, C 0.1 (as published)": "3:1.0,2:0.01,1:0.1,0:0"}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--data", envvar="SHELFRANK_DATA", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--index", default="esci", show_default=True)
@click.option("--ids", "ids_file", type=_FILE, help="Only these query ids, one a line.")
@click.option("--systems", default="bm25,vector,hybrid,rerank", show_default=True)
@click.option("--window", type=click.IntRange(0), help="Hits to rerank; default search.window.")
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/esci"))
@click.option("--json", "as_json", is_flag=True)
def main(
    data: Path,
    index: str,
    ids_file: Path | None,
    systems: str,
    window: int | None,
    run_dir: Path,
    as_json: bool,
) -> None:
    """Ingest ESCI where needed and compare systems on its queries."""
    try:
        folder = data / "esci"
        if not (folder / "products.jsonl").is_file():
            raise InputError(f"{folder} holds no products.jsonl; --help says what belongs there.")
        settings = load()
        chosen = parse_systems(systems, settings.search.mode)
        qrels = read_qrels(folder / "qrels.tsv")
        ids = None if ids_file is None else ids_file.read_text("utf-8").split()
        queries = [query for query in _of_ids(read_queries(folder / "queries.tsv"), ids) if query.id in qrels]
        run_dir.mkdir(parents=True, exist_ok=True)
        flags = ["--mapping", "esci", "--index", index, "--dead-letter", str(run_dir / "rejected.jsonl")]
        report = ["--report", str(run_dir / "ingest.json")]
        ingest.main([str(folder / "products.jsonl"), *flags, *report], standalone_mode=False)
        searcher = Searcher.connect(settings)
        runs = run_all(searcher, index, queries, chosen, window)
        for run in runs:
            write_run(run_dir / f"{run.system.name.replace(':', '-')}.run", run.rankings, run.system.name)
        results = {name: compare(runs, qrels, parse_gains(gains)) for name, gains in GAINS.items()}
    except ShelfrankError as error:
        raise click.ClickException(str(error)) from error
    seen = seen_in_training(queries, trained_on(searcher))
    told = doubts(runs, next(iter(results.values())))
    told += [seen_sentence(seen, len(queries))] if seen else []
    if as_json:
        figures = {
            name: {"systems": found.means, "baseline": found.baseline, "differences": found.differences}
            for name, found in results.items()
        }
        emit_json(msgspec.to_builtins({"queries": len(queries), "gains": figures, "warnings": told}))
        return
    for name, found in results.items():
        out.print(table(runs, found, f"{len(queries)} queries · gains {name}"), difference_table(found))
    for line in told:
        out.print(line, style="bold red", markup=False)


def _of_ids(queries: Sequence[Query], ids: Sequence[str] | None) -> list[Query]:
    if ids is None:
        return list(queries)
    wanted = set(ids)
    unknown = sorted(wanted - {query.id for query in queries})
    if unknown:
        raise InputError(f"--ids names {len(unknown)} unknown queries: {some(unknown)}.")
    return [query for query in queries if query.id in wanted]


if __name__ == "__main__":
    main()

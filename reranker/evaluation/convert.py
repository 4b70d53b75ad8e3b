"""The `judgments` commands: queries and judgments from one format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from rich.text import Text

from indexer.errors import InputError, UsageError
from indexer.terminal import emit_json, err, out
from reranker.evaluation import workbench
from reranker.evaluation.judgments import (
    Qrels,
    Query,
    read_qrels,
    read_queries,
    write_qrels,
    write_queries,
    write_trec_qrels,
)
from reranker.evaluation.lines import some, writing

_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)


@click.group()
def judgments() -> None:
    """Queries and judgments in other tools' formats.

    \b
    Example:
      shelfrank judgments convert qrels.tsv judgments.json --to workbench --queries queries.tsv
      shelfrank judgments queries queries.tsv query-set.json --to workbench
    """


@judgments.command()
@click.argument("source", metavar="IN", type=_IN)
@click.argument("target", metavar="OUT", type=_OUT)
@click.option("--to", "form", required=True, type=click.Choice(["tsv", "trec", "workbench"]), help="Format of OUT.")
@click.option("--queries", "queries_path", type=_IN, help="The texts of the queries: the workbench knows no ids.")
@click.option("--name", default="", help="Name of the judgment list in the workbench; default: that of OUT.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def convert(
    source: Path,
    target: Path,
    form: Literal["tsv", "trec", "workbench"],
    queries_path: Path | None,
    name: str,
    as_json: bool,
) -> None:
    """Write judgments in another format. What IN is, its content tells: TSV, TREC or a judgment list.

    \b
    Example:
      shelfrank judgments convert qrels.tsv judgments.json --to workbench --queries queries.tsv
    """
    queries = read_queries(queries_path) if queries_path else []
    qrels = read_qrels(source, queries)
    with writing(target):
        if form == "tsv":
            write_qrels(target, qrels)
        elif form == "trec":
            write_trec_qrels(target, qrels)
        else:
            if not queries and not workbench.is_json(source):
                raise UsageError("The workbench knows queries by their texts; give --queries FILE, which has them.")
            by_text = texts_of(qrels, queries) if queries else qrels
            target.write_bytes(workbench.judgment_list(name or target.stem, by_text))
    count = sum(map(len, qrels.values()))
    _done(target, {"queries": len(qrels), "judgments": count, "to": form}, as_json)


@judgments.command("queries")
@click.argument("source", metavar="IN", type=_IN)
@click.argument("target", metavar="OUT", type=_OUT)
@click.option("--to", "form", required=True, type=click.Choice(["tsv", "workbench"]), help="Format of OUT.")
@click.option("--name", default="", help="Name of the query set in the workbench; default: that of OUT.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def convert_queries(source: Path, target: Path, form: Literal["tsv", "workbench"], name: str, as_json: bool) -> None:
    """Write queries in another format. What IN is, its content tells: TSV or a query set.

    \b
    Example:
      shelfrank judgments queries queries.tsv query-set.json --to workbench
    """
    queries = read_queries(source)
    with writing(target):
        if form == "tsv":
            write_queries(target, queries)
        else:
            pairs = [(query.text, query.columns.get("referenceAnswer", "")) for query in queries]
            target.write_bytes(workbench.query_set(name or target.stem, pairs))
            if bad := workbench.refused(query.text for query in queries):
                said = f'Warning: the workbench takes no query with one of " \\ < >: {len(bad)} ({some(bad)})'
                err.print(Text(said, style="yellow"))
    _done(target, {"queries": len(queries), "to": form}, as_json)


def texts_of(qrels: Qrels, queries: list[Query]) -> Qrels:
    """Judgments by query text and not by id. Raises InputError for a query without text, or with two judgments."""
    texts = {query.id: query.text for query in queries} | {query.text: query.text for query in queries}
    if bare := [query for query in qrels if query not in texts]:
        raise InputError(f"The queries file has no text of {len(bare)} judged queries ({some(bare)}). Add them.")
    found: Qrels = {}
    for query, grades in qrels.items():
        for product, grade in grades.items():
            known = found.setdefault(texts[query], {}).setdefault(product, grade)
            if known != grade:
                raise InputError(
                    f"Two queries read {texts[query]!r} and judge product {product!r} {known} and {grade}; "
                    "in the workbench they are one. Keep one of them."
                )
    return found


def _done(target: Path, counts: dict[str, int | str], as_json: bool) -> None:
    if as_json:
        emit_json({**counts, "path": target})
    else:
        said = ", ".join(f"{value} {name}" for name, value in counts.items() if isinstance(value, int))
        out.print(Text(f"{target}: {said}"))

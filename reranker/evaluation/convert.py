"""The `judgments` commands: from one format to another, and pools of products to judge."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import click
from rich.text import Text

from indexer.client import call
from indexer.errors import InputError, UsageError
from indexer.settings import load
from indexer.terminal import emit_json, err, out, progress
from reranker.evaluation import pooling, workbench
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
from reranker.search import Searcher

_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
_MGET = 500
_OUT = click.Path(dir_okay=False, path_type=Path)


@click.group()
def judgments() -> None:
    """Judge pools of products; queries and judgments in other tools' formats.

    \b
    Example:
      shelfrank judgments pool --index shop --queries queries.tsv --out pools
      shelfrank judgments grades pools qrels.tsv
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


@judgments.command("pool")
@click.option("--index", required=True, help="Index or alias of the shop.")
@click.option("--queries", "queries_path", required=True, type=_IN, help="TSV: query_id, query; or a query set.")
@click.option("--out", "folder", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--top", default=12, show_default=True, type=click.IntRange(1, 50), help="First-stage hits of a query.")
@click.option("--sampled", default=8, show_default=True, type=click.IntRange(0, 50), help="More, from farther down.")
@click.option("--per-file", default=25, show_default=True, type=click.IntRange(1), help="Queries in a text.")
@click.option("--seed", default=0, show_default=True, help="For what is drawn and the order shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def pool_command(
    index: str, queries_path: Path, folder: Path, top: int, sampled: int, per_file: int, seed: int, as_json: bool
) -> None:
    """Write each query's likely products as text, for people or a language model to grade.

    Grades go into grades-01.txt beside pool-01.txt, and so on; the head of each text says how.

    \b
    Example:
      shelfrank judgments pool --index shop --queries queries.tsv --out pools
    """
    queries = read_queries(queries_path)
    searcher = Searcher.connect(load(), reranker=False, waits=True)
    with progress() as bar:
        each = bar.track(queries, description="pools")
        pools = [pooling.make_pool(searcher, index, query, top, sampled, seed) for query in each]
    ids = sorted({product for pool in pools for product in pool.products})
    client, fields = searcher.retriever.client, ["title", "brand", "color", "price", "currency"]
    products = {}
    for start in range(0, len(ids), _MGET):
        body = {"ids": ids[start : start + _MGET]}
        found = call(partial(client.mget, index=index, body=body, params={"_source_includes": ",".join(fields)}))
        products.update({document["_id"]: document.get("_source") or {} for document in found["docs"]})
    with writing(folder):
        files = pooling.write_pools(folder, pools, products.__getitem__, per_file)
    _done(
        folder,
        {"queries": len(pools), "pairs": sum(len(each.products) for each in pools), "texts": len(files)},
        as_json,
    )


@judgments.command()
@click.argument("folder", metavar="POOLS", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=_OUT)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def grades(folder: Path, target: Path, as_json: bool) -> None:
    """Turn the grades beside some pools into judgments. Queries without grades are left out and told.

    \b
    Example:
      shelfrank judgments grades pools qrels.tsv
    """
    pools = pooling.read_pools(folder)
    found = pooling.read_grades(folder, pools)
    if bare := [each.query_id for each in pools if each.query_id not in found]:
        err.print(
            Text(f"Warning: no grades yet for {len(bare)} of {len(pools)} queries ({some(bare)}).", style="yellow")
        )
    with writing(target):
        write_qrels(target, found)
    _done(target, {"queries": len(found), "judgments": sum(map(len, found.values()))}, as_json)


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

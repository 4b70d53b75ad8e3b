"""What storing weights in int8 costs in relevance: the same trained model exported in float32 and in int8.

    python benchmarks/int8.py --encoder runs/encoder-model runs/encoder --reranker runs/reranker/measured/model \
        runs/reranker/measured/bundle --index relevance-esci --products products.jsonl --mapping esci \
        --queries queries.tsv --qrels qrels.tsv

Encoders embed the whole catalogue and answer by exact cosine. Rerankers order the first 50 hits of the index's first
stage by their score alone. nDCG@10; the ratio is int8 over float32. `batch` is the largest change of a logit when pairs
are scored one by one and not together.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from indexer import settings as config
from indexer.settings import Models
from ingest.clean import Cleaned, clean
from ingest.schema import load_mapping
from ingest.sources import Row, open_catalogue
from reranker import bundle as bundles
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import Qrels, Query, read_qrels, read_queries
from reranker.evaluation.metrics import gains_of, ndcg
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from reranker.training import nearest
from reranker.training.export import export
from reranker.training.mining import Judged


def in_float32(folder: Path, like: Path, kind: str, out: Path) -> Path:
    """The trained model in `folder` with its weights as they are, and the card of the bundle `like`."""
    export(folder, out, bundles.load(str(like), kind, "").description, compress=False)
    return out


def mean(queries: list[Query], qrels: Qrels, answer: Callable[[str], list[str]]) -> float:
    gain = parse_gains(ESCI_GAINS)
    return float(np.mean([ndcg(answer(query.text), gains_of(qrels.get(query.id, {}), gain), 10) for query in queries]))


def told(name: str, full: float, small: float, note: str = "") -> None:
    print(f"| {name} | {full:.4f} | {small:.4f} | {100 * small / full:.2f} % | {note} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs=2, type=Path, metavar=("MODEL", "BUNDLE"))
    parser.add_argument("--reranker", nargs=2, type=Path, metavar=("MODEL", "BUNDLE"))
    parser.add_argument("--index", help="for the reranker's windows")
    parser.add_argument("--products", type=Path, help="for the encoder")
    parser.add_argument("--mapping", default="esci")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--qrels", type=Path, required=True)
    options = parser.parse_args()
    queries, qrels = read_queries(options.queries), read_qrels(options.qrels)
    print("| model | float32 | int8 | kept | batch |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        if options.encoder:
            mapping = load_mapping(options.mapping)
            rows = (row for row in open_catalogue(options.products, mapping).rows() if isinstance(row, Row))
            found = [clean(row, mapping) for row in rows]
            products = {each.product["id"]: each.product for each in found if isinstance(each, Cleaned)}
            gain = parse_gains(ESCI_GAINS)
            judged = [Judged(query.text, gains_of(qrels.get(query.id, {}), gain)) for query in queries]
            values = []
            for bundle in (in_float32(*options.encoder, "encoder", Path(scratch) / "encoder"), options.encoder[1]):
                found_by = bundles.load(str(bundle), "encoder", "")
                values.append(float(nearest.values(found_by, judged, products).mean()))
            told("encoder", values[0], values[1])
        if options.reranker:
            searcher = Searcher.connect(config.load(), reranker=False)
            windows = {
                query.text: searcher.search(options.index, query.text, size=50, rerank=False).hits for query in queries
            }
            values, worst = [], 0.0
            for bundle in (in_float32(*options.reranker, "reranker", Path(scratch) / "reranker"), options.reranker[1]):
                model = CrossEncoder.load(Models(reranker=str(bundle)))
                worst = 0.0

                def ordered(query: str) -> list[str]:
                    hits = windows[query]
                    texts = [model.product_tokens(hit.source) for hit in hits]  # noqa: B023
                    logits = model.score(query, texts).values  # noqa: B023
                    nonlocal worst
                    alone = model.score(query, texts[:1]).values  # noqa: B023
                    worst = max(worst, float(np.abs(alone - logits[:1]).max()))
                    return [hits[at].id for at in np.argsort(-logits, kind="stable")[:10]]

                values.append(mean(queries, qrels, ordered))
            told("reranker", values[0], values[1], f"{worst:.5f}")


if __name__ == "__main__":
    main()

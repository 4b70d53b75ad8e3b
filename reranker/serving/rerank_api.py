"""Rerank and embedding endpoints in the shapes that clients already speak: Cohere's, text-embeddings-inference's and
OpenAI's."""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from indexer.errors import InputError, ShelfrankError
from reranker import pace
from reranker.documents import MAX_DOCUMENTS, Scored, rerank_by
from reranker.serving import access
from reranker.serving.access import needs
from reranker.serving.crew import Piece
from reranker.serving.engine import DEFAULT, Engine
from reranker.serving.notes import note_queries
from reranker.serving.visits import while_there

router = APIRouter(dependencies=[Depends(needs("rerank"))])

MAX_CHARACTERS = 100_000
MAX_INPUTS = 512
MAX_DEPTH = 50  # of a document
_EMBEDDED_AT_ONCE = 16
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Model = Annotated[
    str, Field(max_length=200, description="A name of `serve.bundles`; any other means the service's own reranker.")
]


class CohereRequest(BaseModel):
    """As Cohere's rerank takes it; what is not named here is ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "default",
                "query": "steel bottle without straw",
                "documents": ["Steel water bottle, screw cap", {"title": "Bottle with straw", "brand": "Rill"}],
                "top_n": 1,
            }
        }
    )
    model: Model = DEFAULT
    query: Text
    documents: Annotated[
        list[Text | dict[str, Any]],
        Field(
            min_length=1,
            max_length=MAX_DOCUMENTS,
            description="Texts, objects with a `text`, or objects with product fields such as `title` and `brand`.",
        ),
    ]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False

    @field_validator("documents")
    @classmethod
    def _can_be_given_back(cls, documents: list[Any]) -> list[Any]:
        for at, document in enumerate(documents):
            if isinstance(document, dict):
                try:
                    deep = _depth(document) > MAX_DEPTH
                    msgspec.json.encode(document)
                except (UnicodeEncodeError, RecursionError, ValueError) as error:
                    raise ValueError(f"document {at} holds what no JSON can hold") from error
                if deep:
                    raise ValueError(f"document {at} nests more than {MAX_DEPTH} levels")
        return documents


def _depth(value: Any) -> int:
    """How many lists and objects stand within each other."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
    return depth


class CohereResult(BaseModel):
    index: int
    relevance_score: Annotated[float, Field(description="0 to 1: the logistic function of the model's logit.")]
    document: dict[str, Any] | None = None


class CohereResponse(BaseModel):
    id: str
    results: list[CohereResult]
    meta: dict[str, Any]


class TeiRequest(BaseModel):
    """As text-embeddings-inference's `/rerank` takes it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"query": "保温杯", "texts": ["不锈钢保温杯 500ml", "保温杯杯套"], "raw_scores": False}
        }
    )
    query: Text
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    raw_scores: bool = False
    return_text: bool = False


class TeiResult(BaseModel):
    index: int
    score: float
    text: str | None = None


class EmbeddingRequest(BaseModel):
    """As OpenAI's embeddings take it. `input_type` says which side a text is: the encoder reads them differently."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "default", "input": ["steel bottle", "保温杯"], "input_type": "query"}}
    )
    model: Annotated[str, Field(max_length=200)] = DEFAULT
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "document"] = "document"
    dimensions: Annotated[int, Field(ge=1)] | None = None


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: dict[str, int]


@router.post("/v1/rerank", response_model_exclude_none=True, summary="Rerank, in the shape of Cohere's v1")
@router.post("/v2/rerank", response_model_exclude_none=True, summary="Rerank, in the shape of Cohere's v2")
async def cohere(request: Request, asked: CohereRequest) -> CohereResponse:
    """Documents ordered by how well they answer the query, best first."""
    scored = await _scored(request, asked.model, asked.query, asked.documents)
    results = []
    for each in scored[: asked.top_n]:
        result = CohereResult(index=each.index, relevance_score=probability(each.score))
        if asked.return_documents:
            document = asked.documents[each.index]
            result.document = {"text": document} if isinstance(document, str) else document
        results.append(result)
    version = "2" if request.url.path.startswith("/v2") else "1"
    meta = {"api_version": {"version": version}, "billed_units": {"search_units": 1}}
    return CohereResponse(id=str(uuid.uuid4()), results=results, meta=meta)


@router.post("/rerank", response_model_exclude_none=True, summary="Rerank, in the shape of text-embeddings-inference")
async def tei(request: Request, asked: TeiRequest) -> list[TeiResult]:
    """Texts ordered by how well they answer the query, best first."""
    results = []
    for each in await _scored(request, DEFAULT, asked.query, asked.texts):
        result = TeiResult(index=each.index, score=each.score if asked.raw_scores else probability(each.score))
        if asked.return_text:
            result.text = asked.texts[each.index]
        results.append(result)
    return results


@router.post("/v1/embeddings", response_model=EmbeddingResponse, summary="Embeddings, in the shape of OpenAI's")
async def embeddings(request: Request, asked: EmbeddingRequest) -> Response:
    """A vector of length 1 for each text, by the encoder that the indexes are made with."""
    engine: Engine = request.app.state.engine
    visit, encoder = access.visit(request), engine.encoder
    if encoder is None:
        raise ShelfrankError(f"There is no encoder: {engine.missing.get('encoder', 'it is being loaded')}")
    if asked.dimensions not in (None, encoder.dimension):
        raise InputError(f"dimensions is {asked.dimensions}; this encoder has {encoder.dimension} and cannot be cut.")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    embed = encoder.embed_queries if asked.input_type == "query" else encoder.embed_texts
    piece = Piece("embed", visit.share, visit.deadline(engine.settings.serve.embed_deadline_ms), len(texts))

    def embedded() -> bytes:
        data: list[dict[str, Any]] = []
        tokens = 0
        for at in range(0, len(texts), _EMBEDDED_AT_ONCE):  # to read them takes time too
            pace.check()
            some = texts[at : at + _EMBEDDED_AT_ONCE]
            tokens += encoder.count_tokens(some)
            for number, vector in enumerate(embed(some), start=at):
                data.append({"object": "embedding", "index": number, "embedding": _written(vector, asked)})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return msgspec.json.encode({"object": "list", "data": data, "model": encoder.bundle_id, "usage": usage})

    return Response(await while_there(request, engine.model(embedded, piece)), media_type="application/json")


def _written(vector: NDArray[np.float32], asked: EmbeddingRequest) -> list[float] | str:
    if asked.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]


async def _scored(request: Request, model: str, query: str, documents: Sequence[Any]) -> list[Scored]:
    note_queries(request, [query])
    engine: Engine = request.app.state.engine
    name = model if model in engine.settings.serve.bundles else DEFAULT
    reranker = engine.reranker(name)
    visit = access.visit(request)
    piece = Piece("list", visit.share, visit.deadline(engine.settings.serve.rerank_deadline_ms), len(documents))
    work = partial(rerank_by, query, documents, reranker, piece.deadline)
    return await while_there(request, engine.model(work, piece))


def probability(logit: float) -> float:
    """The logistic function, to seven digits: ml-commons turns longer numbers into a type that its search cannot cast.

    Rounding may make two scores equal; the order is that of the logits.
    """
    value = 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0
    return float(np.format_float_positional(value, precision=7, fractional=False)) if value else 0.0

"""An explained hit in two to five short sentences, English or Chinese, that say what its numbers say and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reranker.explaining.explained import ExplainedHit, FilterHeld
from reranker.explaining.reading import FieldEffect, WordEffect
from reranker.explaining.terms import Term
from reranker.text import field_text

_LEAST_POINTS = 0.01  # of the final score
_LEAST_LOGITS = 0.05
_TERMS, _WORDS = 2, 3  # told at most, on either side

_TERM_NAMES = {
    "first_stage": ("the first-stage score", "初检得分"),
    "rerank": ("the reranker's score", "重排模型得分"),
    "logit": ("how much surer of it the reranker is than of others", "重排模型对它的把握"),
    "vector": ("how near its vector is to the query's", "与查询的语义接近程度"),
    "title_match": ("query words in the title", "标题中的查询词"),
    "text_match": ("query words anywhere in its text", "商品文字中的查询词"),
    "phrase": ("query words side by side in the title", "标题中相邻的查询词"),
    "focus": ("how much of the title the query speaks of", "标题中查询词的比重"),
    "head": ("how early the title names the thing asked for", "标题中所找物品出现的早晚"),
    "brand": ("the brand", "品牌"),
    "number": ("numbers of the query", "查询中的数字"),
    "audience": ("for whom it is", "适用人群"),
    "category": ("the category, beside those of the best first-stage hits", "类目与初检靠前商品的一致程度"),
    "color": ("the colour", "颜色"),
}
# What a signal's value means where it is one of few.
_TERM_VALUES = {
    ("head", -1.0): ("a title that does not name the thing asked for", "标题未提及所找物品"),
    ("accessory", 1.0): (
        "a title that names the thing asked for only as what it is for",
        "标题显示它只是所找物品的配件",
    ),
    ("accessory", 0.0): ("not being named as an accessory to the thing asked for", "标题未显示它只是配件"),
    ("brand", 1.0): ("a brand that the query names", "品牌与查询一致"),
    ("brand", -1.0): ("another brand than the query names", "品牌与查询不一致"),
    ("excluded", 1.0): ("having what the query rules out", "含有查询所排除的内容"),
    ("excluded", -1.0): ("a title that says it lacks what the query rules out", "标题写明不含查询所排除的内容"),
    ("excluded", 0.0): ("showing nothing of what the query rules out", "未见查询所排除的内容"),
    ("audience", 1.0): ("being for whom the query asks", "适用人群与查询一致"),
    ("audience", -1.0): ("being for others than the query asks", "适用人群与查询不一致"),
    ("color", 1.0): ("a colour that the query names", "颜色与查询一致"),
    ("color", -1.0): ("another colour than the query names", "颜色与查询不一致"),
    ("price", 1.0): ("a price outside what the query allows", "价格超出查询限定的价位"),
    ("price", 0.0): ("no price outside what the query allows", "价格未超出查询限定的价位"),
}
_FIELDS = {
    "title": "标题",
    "brand": "品牌",
    "color": "颜色",
    "bullets": "卖点",
    "category": "类目",
    "description": "描述",
}
_FILTERS = {
    "min_price": ("price {value}, at least {asked} asked", "价格 {value}（要求不低于 {asked}）"),
    "max_price": ("price {value}, at most {asked} asked", "价格 {value}（要求不高于 {asked}）"),
    "brands": ("brand {value}, {asked} asked", "品牌 {value}（要求 {asked}）"),
    "categories": ("category {value}, {asked} asked", "类目 {value}（要求 {asked}）"),
    "min_rating": ("rating {value}, at least {asked} asked", "评分 {value}（要求不低于 {asked}）"),
    "ids": ("id {value} is on the list asked for", "编号 {value} 在指定名单中"),
}


def tell(hit: ExplainedHit, rerank: Mapping[str, Any], reading: Mapping[str, Any], language: str) -> list[str]:
    """The sentences of one hit; `rerank` is the page's, `reading` says how far effects were measured."""
    zh = language == "zh"
    told = [_moved(hit, rerank, zh), _terms(hit.terms, zh), _read(hit, zh), _filters(hit.filters, zh)]
    if hit.scores["rerank"] is not None and reading["status"] in ("partial", "error"):
        told.append(_unfinished(reading, zh))
    return [sentence for sentence in told if sentence]


def _moved(hit: ExplainedHit, rerank: Mapping[str, Any], zh: bool) -> str:
    old, new, window = hit.first_stage_rank, hit.rank, rerank["window"]
    if rerank["status"] != "applied":
        status, why = rerank["status"], rerank["reason"]
        if zh:
            return f"未经重排（{status}：{why}），保持初检的第 {old} 位。"
        return f"It keeps rank {old} of the first stage, as nothing was reranked ({status}: {why})."
    if hit.rerank_rank is None:
        if zh:
            return f"排在第 {new} 位；只有前 {window} 个结果参与重排，它在其后，保持初检次序。"
        return f"It stands at rank {new}, behind the first {window} hits, which alone are reranked."
    if zh:
        way = f"从第 {old} 位{'升' if new < old else '降'}到第 {new} 位" if new != old else f"保持在第 {new} 位"
        return f"{way}（共 {window} 个结果参与重排）；仅按重排模型得分会排第 {hit.rerank_rank} 位。"
    way = f"moved {'up' if new < old else 'down'} from rank {old} to {new}" if new != old else f"stayed at rank {new}"
    return (
        f"It {way} among the {window} hits that were reranked; "
        f"by the reranker's score alone it would stand at {hit.rerank_rank}."
    )


def _terms(terms: Sequence[Term], zh: bool) -> str:
    """What lifts the hit above the window's average and what pulls it below."""
    apart = [(term, term.adds - term.average) for term in terms]
    gained = [_points(term, points, zh) for term, points in apart if points >= _LEAST_POINTS][:_TERMS]
    lost = [_points(term, points, zh) for term, points in apart if points <= -_LEAST_POINTS][:_TERMS]
    if not terms:
        return ""
    if not gained and not lost:
        return (
            "各项得分均接近这些结果的平均值。"
            if zh
            else "Every part of its final score is close to these hits' average."
        )
    if zh:
        parts = [f"{word}：{'，'.join(found)}" for word, found in (("加分", gained), ("减分", lost)) if found]
        return f"与这些结果的平均值相比，{'；'.join(parts)}。"
    parts = [f"{how} {' and '.join(found)}" for how, found in (("lifted by", gained), ("held back by", lost)) if found]
    return f"Compared with the average of these hits it is {', and '.join(parts)}."


def _points(term: Term, points: float, zh: bool) -> str:
    names = _TERM_VALUES.get((term.name, term.value)) or _TERM_NAMES.get(term.name) or (term.name, term.name)
    return f"{names[zh]}{_signed(points, zh)}"


def _read(hit: ExplainedHit, zh: bool) -> str:
    """The strongest field, and the words that spoke for and against the hit."""
    measured = [each for each in hit.fields if each.effect is not None]
    if not measured:
        return ""
    field = measured[0]
    first = _effect(field, zh)
    known = [word for word in hit.words if word.effect is not None]
    spoke = [_effect(word, zh) for word in known if (word.effect or 0.0) >= _LEAST_LOGITS][:_WORDS]
    against = [_effect(word, zh) for word in known if (word.effect or 0.0) <= -_LEAST_LOGITS][:_WORDS]
    if zh:
        told = [f"重排模型得分受{first}影响最大"]
        told += [f"加分的词：{'，'.join(spoke)}"] if spoke else []
        told += [f"减分的词：{'，'.join(against)}"] if against else []
        return "；".join(told) + "。"
    told = [f"The reranker's score moves most with the {first}"]
    told += [f"words for it: {', '.join(spoke)}"] if spoke else []
    told += [f"words against it: {', '.join(against)}"] if against else []
    return "; ".join(told) + "."


def _effect(part: FieldEffect | WordEffect, zh: bool) -> str:
    if isinstance(part, FieldEffect):
        name = _FIELDS.get(part.name, part.name) if zh else part.name
    else:
        name = f"“{part.text}”"
    return f"{name}{_signed(part.effect or 0.0, zh)}"


def _filters(filters: Sequence[FilterHeld], zh: bool) -> str:
    if not filters:
        return ""
    told = []
    for each in filters:
        asked = (" 或 " if zh else " or ").join(each.asked) if isinstance(each.asked, tuple) else f"{each.asked:g}"
        value = f"{each.value:g}" if isinstance(each.value, (int, float)) else field_text(each.value)
        told.append(_FILTERS[each.name][zh].format(value=value, asked=asked))
    return f"符合筛选条件：{'；'.join(told)}。" if zh else f"It passed the filters: {'; '.join(told)}."


def _unfinished(reading: Mapping[str, Any], zh: bool) -> str:
    scored, pairs = reading["scored"], reading["pairs"]
    if reading["status"] == "error":
        why = reading["reason"]
        return f"未能完成对字段和词的测量：{why}。" if zh else f"Measuring fields and words failed: {why}."
    if zh:
        return f"时间用完，只完成了 {pairs} 项测量中的 {scored} 项，其余字段和词未测。"
    return f"Time ran out after {scored} of {pairs} measurements; what has no figure was not measured."


def _signed(value: float, zh: bool) -> str:
    text = f"{value:+.2f}".replace("-", "−")
    return f"（{text}）" if zh else f" ({text})"

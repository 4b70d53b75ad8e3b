// Why a product stands where it stands: its scores at once, and what moved it when the service has measured it.
import { byId, make, put } from "./dom.js";
import { judge, move } from "./results.js";
import { has, number, signed, text } from "./texts.js";

const LEAST_POINTS = 0.005;
const MOST_WORDS = 8;
const STRENGTHS = [0.1, 0.5];

/** The sheet as the search's own answer fills it; `explained` adds to it. */
export function showSheet(hit, feedback, on) {
  const title = byId("sheet-title");
  title.textContent = hit.title ?? hit.id;
  title.lang = hit.language ?? "";
  put(
    byId("sheet-body"),
    make("p", { class: "lead" }, `${text("why_title")} `, move(hit, "reranked")),
    make("div", { id: "told", ariaLive: "polite" }, make("p", { class: "muted" }, text("why_loading"))),
    make("div", { id: "scores" }, scores(hit)),
    make("div", { id: "measured" }),
    feedback ? make("p", { class: "feedback" }, make("span", {}, text("feedback")), judge(hit, on)) : "",
  );
}

/** A sentence in place of an explanation. */
export function tellOnly(sentence, ...more) {
  put(byId("told"), make("p", {}, sentence), ...more);
}

/** What the service found out about the product. */
export function showExplained(answer, hit) {
  const found = answer.hits.find((each) => each.id === hit.id);
  if (!found) {
    tellOnly(text("why_gone"));
    return;
  }
  put(byId("told"), found.text.map((sentence) => make("p", {}, sentence)));
  put(byId("scores"), scores({ ...hit, ...found }));
  put(byId("measured"), terms(found), reading(found, answer.reading), filters(found));
}

function scores(hit) {
  const places = { first_stage: hit.first_stage_rank, rerank: hit.rerank_rank, final: hit.rank };
  const rows = ["first_stage", "rerank", "final"].map((stage) => [
    text(`stage_${stage === "first_stage" ? "first" : stage}`),
    amount(hit.scores[stage]),
    amount(places[stage]),
  ]);
  return section("scores", table(["stage", "score", "place_column"], rows));
}

function terms(hit) {
  if (!hit.terms.length) return [];
  const apart = (term) => term.adds - term.average;
  const told = hit.terms.filter((term) => Math.abs(apart(term)) >= LEAST_POINTS);
  const flat = hit.terms.filter((term) => !told.includes(term)).map((term) => name("term", term.name));
  const most = Math.max(...told.map((term) => Math.abs(apart(term))));
  const rows = told.map((term) => [
    name("term", term.name),
    amount(term.value, 2),
    amount(term.weight, 2),
    [bar(apart(term), most), signed(apart(term))],
  ]);
  return section(
    "terms",
    make("p", { class: "muted" }, text("terms_note")),
    rows.length ? table(["term", "value", "weight_column", "points"], rows) : "",
    flat.length ? make("p", { class: "muted" }, text("terms_flat", { names: flat.join(text("comma")) })) : "",
  );
}

function reading(hit, about) {
  if (!hit.fields.length) return [];
  const fields = hit.fields.map((field) =>
    make(
      "div",
      { class: "field" },
      make("dt", {}, name("field", field.name), " ", make("b", {}, effect(field.effect))),
      make("dd", {}, marked(field, hit.words)),
    ),
  );
  const lists = ["words", "query_words"]
    .filter((key) => hit[key]?.some((word) => word.effect !== null))
    .map((key) => {
      const known = hit[key].filter((word) => word.effect !== null).slice(0, MOST_WORDS);
      const most = Math.max(...known.map((word) => Math.abs(word.effect)));
      return table([key, "effect"], known.map((word) => [word.text, [bar(word.effect, most), effect(word.effect)]]));
    });
  const left = about.status === "partial" ? text("partial", { scored: about.scored, pairs: about.pairs }) : "";
  return section("read", make("p", { class: "muted" }, `${text("read_note")} ${left}`), make("dl", {}, fields), ...lists);
}

/** A field's text with the words that count marked; places count code points. */
function marked(field, words) {
  const points = Array.from(field.text);
  const places = words
    .filter((word) => strength(word.effect) > 0)
    .flatMap((word) => word.places.filter((place) => place.field === field.name).map((place) => ({ ...place, word })))
    .sort((a, b) => a.start - b.start);
  const parts = [];
  let at = 0;
  for (const { start, end, word } of places) {
    if (start < at) continue;
    const way = word.effect > 0 ? "for" : "against";
    parts.push(points.slice(at, start).join(""));
    parts.push(make("mark", { class: `${way} s${strength(word.effect)}`, title: effect(word.effect) }, points.slice(start, end).join("")));
    at = end;
  }
  return [...parts, points.slice(at).join("")];
}

const strength = (value) => (value === null ? 0 : STRENGTHS.filter((least) => Math.abs(value) >= least).length);

function filters(hit) {
  if (!hit.filters.length) return [];
  const items = hit.filters.map((each) => {
    const asked = [each.asked].flat().map((value) => (typeof value === "number" ? number(value, 2) : value));
    return make("li", {}, `${name("filter", each.name)} ${asked.join(text("comma"))}`);
  });
  return section("filters", make("ul", {}, items));
}

const section = (key, ...children) => [make("h3", {}, text(key)), ...children];
const name = (kind, given) => (has(`${kind}_${given}`) ? text(`${kind}_${given}`) : given);
const amount = (value, digits = 3) => (typeof value === "number" ? number(value, digits) : "–");
const effect = (value) => (value === null ? text("unmeasured") : signed(value));

function table(heads, rows) {
  const head = make("tr", {}, heads.map((key) => make("th", { scope: "col" }, text(key))));
  const body = rows.map(([first, ...rest]) =>
    make("tr", {}, make("th", { scope: "row" }, first), rest.map((value) => make("td", {}, value))),
  );
  return make("table", {}, make("thead", {}, head), make("tbody", {}, body));
}

/** A bar to the right for what lifts, to the left for what pulls down. */
function bar(value, most) {
  const inner = make("span", { class: value > 0 ? "for" : "against" });
  inner.style.inlineSize = `${most ? (50 * Math.abs(value)) / most : 0}%`;
  return make("span", { class: "points", ariaHidden: "true" }, inner);
}

// One answer of the service: its state in words, where the time went, both lists, what filters to offer.
import { byId, make, put } from "./dom.js";
import { reachable } from "./state.js";
import { number, price, text } from "./texts.js";

/** What became of reranking, in a pill and a sentence. */
export function showStatus(answer, question) {
  const { rerank, total, failed_shards: shards, hits } = answer;
  put(
    byId("status"),
    make("span", { class: `pill ${rerank.status}` }, text(rerank.status)),
    make("span", {}, `${text("found", { n: total })} ${hits.length ? why(rerank, question) : ""}`),
    rerank.status === "error" ? make("span", { class: "muted", lang: "en" }, `(${rerank.reason})`) : "",
    shards ? make("strong", {}, text("shards")) : "",
  );
}

function why(rerank, { search, start, window }) {
  const n = rerank.window;
  if (rerank.status === "timeout") {
    return text("timeout_why", { n, scored: rerank.scored, limit: search.deadline_ms ?? search.limit });
  }
  if (rerank.status === "skipped" && !search.rerank) return text("skipped_off");
  if (rerank.status === "skipped" && window && start >= window) return text("skipped_behind", { n: window });
  return text(`${rerank.status}_why`, { n });
}

/** Milliseconds by phase, as a bar and as figures. */
export function showTook(took) {
  const phases = Object.keys(took).filter((name) => name !== "total");
  const bar = make("dd", { class: "bar", ariaHidden: "true" }, phases.map((name) => {
    const part = make("span", { class: name });
    part.style.flexGrow = took[name];
    return part;
  }));
  const parts = [...phases, "total"].map((name) =>
    make("dd", { class: name }, `${text(`took_${name}`)} `, make("b", {}, text("milliseconds", { n: Math.round(took[name]) }))),
  );
  put(byId("took"), make("dt", {}, text("took")), bar, ...parts);
}

/** Both lists of the page; `on` is called with what is done: open(hit, list), judge(action, hit). */
export function showLists(answer, { search, start, size }, feedback, on) {
  const within = search.from === 0;
  const cut = (hits) => (within ? hits.slice(start, start + size) : hits);
  const reranked = cut([...answer.hits].sort((a, b) => a.rank - b.rank));
  const first = cut([...answer.hits].sort((a, b) => a.first_stage_rank - b.first_stage_rank));
  put(byId("first"), first.map((hit) => card(hit, "first", false, on)));
  put(byId("reranked"), reranked.map((hit) => card(hit, "reranked", feedback, on)));
  byId("first-note").textContent = text("first_note");
  byId("reranked-note").textContent = text(answer.rerank.status === "applied" ? "reranked_note" : "same_note");
  const end = reachable(answer.total, size);
  byId("place").textContent = text("place", { from: start + 1, to: start + reranked.length, n: answer.total });
  byId("previous").disabled = start === 0;
  byId("next").disabled = start + size >= end;
  return reranked.length;
}

/** Where reranking took a product: up, down or stays. */
export const wayOf = (hit) => (hit.rank < hit.first_stage_rank ? "up" : hit.rank > hit.first_stage_rank ? "down" : "stays");

function card(hit, list, feedback, on) {
  const [way, place] = [wayOf(hit), list === "first" ? hit.first_stage_rank : hit.rank];
  return make(
    "li",
    { class: `card ${way}`, "data-id": hit.id, value: place },
    make("span", { class: "rank", ariaHidden: "true" }, number(place)),
    make(
      "div",
      { class: "product" },
      make("button", { type: "button", class: "title", lang: hit.language, onclick: () => on.open(hit, list) }, hit.title ?? hit.id),
      make("p", { class: "about" }, about(hit)),
    ),
    make("div", { class: "side" }, move(hit, list), feedback ? judge(hit, on) : ""),
  );
}

function about(hit) {
  const stars = typeof hit.rating !== "number" ? null : { stars: number(hit.rating, 1), n: hit.rating_count ?? 0 };
  return [
    hit.brand ? make("span", {}, hit.brand) : "",
    hit.color ? make("span", {}, hit.color) : "",
    typeof hit.price === "number" ? make("span", { class: "price" }, price(hit.price, hit.currency)) : "",
    stars
      ? make(
          "span",
          {},
          make("span", { ariaHidden: "true" }, `★ ${stars.stars} (${number(stars.n)})`),
          make("span", { class: "hidden" }, text("stars", stars)),
        )
      : "",
  ];
}

const ARROWS = { up: "↑", down: "↓" };

/** Which way it moved and the place in the other list. */
export function move(hit, list) {
  const way = wayOf(hit);
  if (way === "stays") return make("span", { class: "move stays" }, text("stays"));
  const place = list === "first" ? text("becomes", { n: hit.rank }) : text("was", { n: hit.first_stage_rank });
  return make(
    "span",
    { class: `move ${way}` },
    make("span", { class: "arrow", ariaHidden: "true" }, ARROWS[way]),
    make("span", { class: "hidden" }, text(way)),
    ` ${place}`,
  );
}

/** Buttons that say good or bad of a result; pressed once is said. */
export function judge(hit, on) {
  const title = hit.title ?? hit.id;
  const judged = on.judged(hit);
  const button = (action, word) =>
    make(
      "button",
      {
        type: "button",
        class: "judge",
        ariaLabel: text(`${word}_hit`, { title }),
        ariaPressed: String(judged === action),
        "data-action": action,
        onclick: () => on.judge(action, hit),
      },
      text(word),
    );
  return make("span", { class: "judges" }, button("thumbs_up", "good"), button("thumbs_down", "bad"));
}

const offered = { of: "", brand: new Set(), category: new Set() };

/** Offer the brands and categories that were found for this query so far, and those that are chosen. */
export function offer(answer, params) {
  const of = JSON.stringify([params.get("index"), params.get("q")]);
  if (offered.of !== of) Object.assign(offered, { of, brand: new Set(), category: new Set() });
  for (const hit of answer?.hits ?? []) {
    if (hit.brand) offered.brand.add(hit.brand);
    for (const path of [hit.category_path ?? []].flat()) offered.category.add(path);
  }
  for (const name of ["brand", "category"]) choices(name, params.getAll(name));
}

function choices(name, chosen) {
  const group = byId(name);
  const values = [...new Set([...offered[name], ...chosen])].sort((a, b) => a.localeCompare(b));
  const there = [...group.querySelectorAll("input")].map((input) => input.value);
  const focused = group.contains(document.activeElement) ? document.activeElement.value : null;
  if (!values.length || values.join("\n") !== there.join("\n")) {
    const boxes = values.map((value) =>
      make("label", {}, make("input", { type: "checkbox", name, value }), make("span", {}, value)),
    );
    put(group, group.querySelector("legend"), boxes.length ? boxes : make("p", { class: "muted" }, text("nothing_offered")));
  }
  for (const input of group.querySelectorAll("input")) {
    input.checked = chosen.includes(input.value);
    if (input.value === focused) input.focus();
  }
}

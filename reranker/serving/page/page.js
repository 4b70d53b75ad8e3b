// The page: the address says what is shown; everything a person does changes the address.
import * as api from "./api.js";
import { byId, make, put } from "./dom.js";
import { drawLinks, linkOnHover } from "./links.js";
import { offer, showLists, showStatus, showTook } from "./results.js";
import { asked, askedWhy, filters, fromForm, intoForm, settings } from "./state.js";
import { current, firstLanguage, other, speak, text } from "./texts.js";
import { showExplained, showSheet, tellOnly } from "./why.js";

const form = byId("form");
const sheet = byId("sheet");
let about = null; // what the service offers
let shown = null; // the last search: its request as text, its question, its answer
let running = new AbortController();
let reading = new AbortController();
const judgments = new Map(); // query and product -> what was said of it
const typed = new Set(); // fields that a person has filled and not sent: what arrives meanwhile leaves them as they are

// Where the address leads

// A form that is sent before this script runs names its empty fields too.
const address = () => new URLSearchParams([...new URLSearchParams(location.search)].filter(([, value]) => value.trim()));

function go(params, replace = false) {
  const query = params.toString();
  history[replace ? "replaceState" : "pushState"](null, "", query ? `?${query}` : location.pathname);
  return show();
}

/** Go where the form says. */
function send() {
  typed.clear();
  return go(fromForm(form));
}

function changed(change) {
  const params = address();
  change(params);
  return params;
}

/** Bring the page to what the address says. `again` asks the service even for what is shown already. */
async function show(again = false) {
  const params = address();
  running.abort();
  running = new AbortController();
  const { signal } = running;
  try {
    if (again || !about?.encoder) about = await getAbout();
    if (signal.aborted) return;
    fill(params);
    await search(params, again, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof api.Problem)) throw error;
    problem(error);
  }
}

async function getAbout() {
  const found = await api.about();
  put(byId("indexes"), found.indexes.map((name) => make("option", { value: name })));
  return found;
}

/** The form as the address and the service's defaults say. */
function fill(params) {
  const option = (value, label) => make("option", { value }, label);
  put(
    form.elements.mode,
    option("", text("as_set", { value: text(`mode_${about.mode}`) })),
    about.modes.filter((mode) => mode !== about.mode).map((mode) => option(mode, text(`mode_${mode}`))),
  );
  const bundles = Object.entries(about.bundles);
  put(form.elements.bundle, bundles.map(([name, id]) => option(name === "default" ? "" : name, name === "default" ? id : `${name} (${id})`)));
  for (const [name, value] of [["index", about.index], ["window", about.window], ["size", about.size], ["deadline", about.deadline_ms]]) {
    form.elements[name].placeholder = value;
  }
  offer(null, params);
  intoForm(form, params, typed);
  for (const count of form.querySelectorAll(".count")) {
    const name = count.closest("details").querySelector("fieldset").id;
    const n = name ? params.getAll(name).length : settings(params).length;
    count.textContent = n || "";
  }
  byId("clear").hidden = !filters(params).length;
}

// Searching

async function search(params, again, signal) {
  const query = params.get("q") ?? "";
  document.title = query ? `${query} – shelfrank` : "shelfrank";
  if (!query) {
    shown = null;
    present({ welcome: true });
    return;
  }
  const question = asked(params, about);
  if (!question.search.index) throw new api.Problem("no_index", "");
  const key = JSON.stringify(question.search);
  if (again || shown?.key !== key) {
    present({ busy: true });
    shown = { key, answer: await api.search(question.search, signal) };
  }
  const view = `${question.start} ${current()}`;
  if (shown.view !== view) {
    Object.assign(shown, { view, question });
    showAnswer(params);
  } else present({ found: !byId("found").hidden });
  openSheet(params);
}

function showAnswer(params) {
  const { answer, question } = shown;
  offer(answer, params);
  const limit = about.deadline_ms;
  const there = showLists(answer, question, about.ubi, { open, judge, judged });
  present({ found: there > 0 });
  showStatus(answer, { ...question, search: { limit, ...question.search } });
  if (!there) {
    const which = answer.total ? "none_page" : filters(params).length ? "none_filters" : "none";
    put(byId("status"), make("span", {}, text(which)));
  }
  showTook(answer.took_ms);
  drawLinks();
}

/** Which parts of the page are to be seen. */
function present({ welcome = false, busy = false, found = false }) {
  byId("welcome").hidden = !welcome;
  byId("key").hidden = true;
  put(byId("problem"));
  byId("results").ariaBusy = String(busy);
  if (busy) put(byId("status"), make("span", { class: "busy" }, text("searching")));
  else byId("found").hidden = !found;
  if (welcome) {
    put(byId("status"), about && Object.keys(about.missing).length ? text("missing") : "");
    sheet.close();
  }
}

function problem({ status, message }) {
  present({});
  put(byId("status"));
  shown = null;
  if (status === 401) {
    byId("key").hidden = false;
    byId("key-why").textContent = text(api.hasKey() ? "key_wrong" : "key_needed");
    byId("key-value").focus();
    return;
  }
  const known = { 413: 400, 422: 400 }[status] ?? status;
  const key = [0, 400, 403, 404, 408, 502, 503, "no_index"].includes(known) ? known : known < 500 ? 400 : 500;
  put(
    byId("problem"),
    make("p", {}, make("strong", {}, text(`problem_${key}`))),
    message ? make("p", { class: "muted", lang: "en" }, message) : "",
    make("button", { type: "button", onclick: () => show(true) }, text("again")),
  );
}

// What a person does with a product

const said = (hit) => `${shown.answer.query_id} ${hit.id}`;
const judged = (hit) => judgments.get(said(hit));

function open(hit, list) {
  // Only the reranked list is what a shopper would have seen, so only its clicks say something.
  if (about.ubi && list === "reranked") api.event("click", shown.answer.query_id, hit);
  history.pushState({ opened: true }, "", `?${changed((params) => params.set("show", hit.id))}`);
  openSheet(address());
}

async function judge(action, hit) {
  if (judged(hit) === action) return;
  const key = said(hit);
  const kept = await api.event(action, shown.answer.query_id, hit);
  if (kept) judgments.set(key, action);
  for (const button of document.querySelectorAll("[data-action]")) {
    const own = button.closest("[data-id]")?.dataset.id ?? address().get("show");
    if (own === hit.id) button.ariaPressed = String(kept ? button.dataset.action === action : judged(hit) === button.dataset.action);
  }
  const note = make("span", { class: "note" }, text(kept ? "thanks" : "unkept"));
  const feedback = sheet.open ? sheet.querySelector(".feedback") : byId("status");
  feedback.querySelector(".note")?.remove();
  feedback.append(note);
}

async function openSheet(params) {
  const hit = shown.answer.hits.find((each) => each.id === params.get("show"));
  if (!hit) {
    sheet.close();
    return;
  }
  reading.abort();
  reading = new AbortController();
  showSheet(hit, about.ubi, { judge, judged });
  if (!sheet.open) sheet.showModal();
  byId("sheet-title").focus();
  sheet.scrollTop = 0;
  if (hit.scores.rerank === null) {
    tellOnly(text("why_untouched"));
    return;
  }
  try {
    showExplained(await api.explain(askedWhy(shown.question.search, hit.id, current()), reading.signal), hit);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof api.Problem)) throw error;
    if ([403, 404, 405].includes(error.status)) tellOnly(text("why_unknown"));
    else tellOnly(text("problem_503"), make("p", { class: "muted", lang: "en" }, error.message));
  }
}

function closeSheet() {
  reading.abort();
  if (!address().has("show")) return;
  if (history.state?.opened) history.back();
  else go(changed((params) => params.delete("show")), true);
}

// Wiring

function listen() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (matchMedia("(pointer: coarse)").matches) byId("q").blur(); // the keyboard would hide the results
    const same = fromForm(form).toString() === address().toString();
    if (!same) send();
    else if (byId("results").ariaBusy !== "true") show(true);
  });
  form.addEventListener("change", (event) => {
    if (event.target.id !== "q" && form.reportValidity()) send();
  });
  byId("clear").addEventListener("click", () => {
    go(changed((params) => {
      for (const name of filters(params)) {
        params.delete(name);
        typed.delete(name);
      }
    }));
  });
  byId("key").addEventListener("submit", (event) => {
    event.preventDefault();
    api.useKey(byId("key-value").value);
    byId("key-value").value = "";
    show(true);
  });
  const turn = (by) => {
    go(changed((params) => {
      const page = (Math.trunc(Number(params.get("page"))) || 1) + by;
      if (page > 1) params.set("page", page);
      else params.delete("page");
    }));
    byId("results").scrollIntoView();
    byId("results").focus({ preventScroll: true });
  };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  for (const button of document.querySelectorAll(".toggle button")) {
    button.addEventListener("click", () => {
      byId("board").dataset.shown = button.value;
      for (const each of document.querySelectorAll(".toggle button")) each.ariaPressed = String(each === button);
    });
  }
  byId("close").addEventListener("click", () => sheet.close());
  sheet.addEventListener("click", (event) => event.target === sheet && sheet.close());
  sheet.addEventListener("close", closeSheet);
  byId("language").addEventListener("click", () => {
    use(other(), true);
    show();
  });
  document.addEventListener("keydown", keys);
  document.addEventListener("click", (event) => {
    for (const panel of document.querySelectorAll("details[open]")) if (!panel.contains(event.target)) panel.open = false;
  });
  form.addEventListener("input", (event) => typed.add(event.target.name));
  addEventListener("popstate", () => {
    typed.clear();
    show();
  });
  linkOnHover(byId("board"));
}

function keys(event) {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    byId("q").focus();
    byId("q").select();
  }
  const panel = event.target.closest?.("details[open]");
  if (event.key === "Escape" && panel) {
    panel.open = false;
    panel.querySelector("summary").focus();
  }
}

function use(language, remember) {
  speak(language, remember);
  const button = byId("language");
  button.textContent = text("other_language");
  button.lang = other() === "zh" ? "zh-Hans" : "en";
}

use(firstLanguage(), false);
listen();
put(byId("status"), text("loading"));
show();

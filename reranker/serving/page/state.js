// What is asked: the form, the address and the request say the same.

const MAX_WINDOW = 1000;
const MAX_REACH = 10000;
const FILTERS = ["min", "max", "rating", "brand", "category"];
const SETTINGS = ["index", "mode", "rerank", "bundle", "window", "weight", "deadline", "size"];
const FIELDS = ["title", "brand", "color", "category_path", "price", "currency", "rating", "rating_count", "language"];

/** The form's values as an address holds them: what is empty is left out, and the page is the first. */
export function fromForm(form) {
  return new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim() !== ""));
}

/** Put an address's values into the form, but for the fields named in `left`. */
export function intoForm(form, params, left) {
  for (const field of form.elements) {
    if (left.has(field.name)) continue;
    if (field.type === "checkbox") field.checked = params.getAll(field.name).includes(field.value);
    else if (field.name) field.value = params.get(field.name) ?? "";
    if (field.selectedIndex === -1) field.value = "";
  }
}

export const filters = (params) => FILTERS.filter((name) => params.has(name));
export const settings = (params) => SETTINGS.filter((name) => params.has(name));

function number(params, name) {
  const value = Number(params.get(name));
  return params.get(name) && Number.isFinite(value) ? value : undefined;
}

/** The search that an address asks for, and which part of its hits is the page.
 *
 * A page within the window takes the whole window, so that every product's two places are known. */
export function asked(params, about) {
  const size = Math.min(Math.max(1, Math.trunc(number(params, "size") ?? about.size)), MAX_WINDOW);
  const window = number(params, "window") ?? about.window;
  const start = (Math.max(1, Math.trunc(number(params, "page") ?? 1)) - 1) * size;
  const within = start < window;
  const search = {
    index: params.get("index") ?? about.index,
    query: params.get("q") ?? "",
    mode: params.get("mode") ?? undefined,
    window: number(params, "window"),
    size: within ? Math.min(Math.max(window, start + size), MAX_WINDOW) : size,
    from: within ? 0 : start,
    weight: number(params, "weight"),
    bundle: params.get("bundle") ?? undefined,
    rerank: params.get("rerank") !== "off",
    deadline_ms: number(params, "deadline"),
    filters: {
      min_price: number(params, "min"),
      max_price: number(params, "max"),
      min_rating: number(params, "rating"),
      brands: params.getAll("brand"),
      categories: params.getAll("category"),
    },
    fields: FIELDS,
  };
  return { search, start, size, window };
}

/** The explanation of one product of a search. */
export function askedWhy(search, id, language) {
  const { size, from, fields, deadline_ms, ...same } = search;
  return { ...same, ids: [id], language, time_limit_ms: 2000 };
}

/** How many hits of a total can be paged to. */
export const reachable = (total, size) => Math.min(total, MAX_REACH - (MAX_REACH % size));

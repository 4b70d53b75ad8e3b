// The service's endpoints.
import { kept, keep } from "./kept.js";

const KEY = ["key", "sessionStorage"];

/** An answer that is none: the HTTP status (0 where nothing came) and what the service said. */
export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, body, options = {}) {
  const headers = { accept: "application/json" };
  const key = kept(...KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "");
  }
  const found = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return {};
  });
  if (answer.ok) return found;
  const message = found.message ?? found.error?.reason ?? answer.statusText;
  throw new Problem(answer.status, typeof message === "string" ? message : "");
}

export const about = () => call("/v1/about");
export const search = (asked, signal) => call("/v1/search", { ...asked, client_id: clientId() }, { signal });
export const explain = (asked, signal) => call("/v1/explain", asked, { signal });

/** Write down what was done with a product; resolves to whether it was kept. Never rejects. */
export async function event(action, queryId, hit) {
  const row = { action_name: action, query_id: queryId, client_id: clientId(), object_id: hit.id, position: hit.rank };
  try {
    return (await call("/v1/events", row, { keepalive: true })).kept === true;
  } catch {
    return false;
  }
}

/** Printable ASCII alone can stand in a header. */
export function useKey(key) {
  keep(KEY[0], key.replace(/[^\x21-\x7e]/g, "") || null, KEY[1]);
}

export const hasKey = () => Boolean(kept(...KEY));

let client;
/** Random, and of this browser alone. */
function clientId() {
  client ??= kept("client");
  if (!client) {
    client = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    keep("client", client);
  }
  return client;
}

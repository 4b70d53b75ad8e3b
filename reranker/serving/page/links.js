// Lines that join a product's places in both lists, and what lights up together.
import { byId } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";

/** Draw a line for every product that both lists show. */
export function drawLinks() {
  const svg = byId("links");
  const box = svg.getBoundingClientRect();
  svg.replaceChildren();
  if (!box.width) return;
  svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  const middle = (card) => {
    const place = card.getBoundingClientRect();
    return place.top + place.height / 2 - box.top;
  };
  const right = new Map([...byId("reranked").children].map((card) => [card.dataset.id, card]));
  for (const card of byId("first").children) {
    const partner = right.get(card.dataset.id);
    if (!partner) continue;
    const [from, to, half] = [middle(card), middle(partner), box.width / 2];
    const path = document.createElementNS(NS, "path");
    path.setAttribute("d", `M 4 ${from} C ${half} ${from} ${half} ${to} ${box.width - 4} ${to}`);
    path.setAttribute("class", card.classList.contains("up") ? "up" : card.classList.contains("down") ? "down" : "stays");
    path.dataset.id = card.dataset.id;
    svg.append(path);
  }
}

/** Light up a product in both lists while the pointer or the focus is on it. */
export function linkOnHover(board) {
  const light = (event) => {
    const id = event.target.closest?.("[data-id]")?.dataset.id;
    board.classList.toggle("lit", id !== undefined);
    for (const part of board.querySelectorAll("[data-id]")) part.classList.toggle("linked", part.dataset.id === id);
  };
  for (const kind of ["pointerover", "focusin"]) board.addEventListener(kind, light);
  for (const kind of ["pointerleave", "focusout"]) board.addEventListener(kind, () => light({ target: board }));
  new ResizeObserver(drawLinks).observe(board);
}

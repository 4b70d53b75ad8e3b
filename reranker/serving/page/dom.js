// Elements, made as data: text never becomes markup.

/** An element with properties (`class`, `data-…` and `aria-…` as attributes) and children, as `put` takes them. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  return put(element, ...children);
}

/** The element with these children in place of its own: elements, texts, lists of them, or "" for nothing. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== ""));
  return element;
}

export const byId = (id) => document.getElementById(id);

// What the browser keeps for the page. Where it keeps nothing, the page works and forgets.

export function kept(name, store = "localStorage") {
  try {
    return window[store].getItem(`shelfrank.${name}`);
  } catch {
    return null;
  }
}

export function keep(name, value, store = "localStorage") {
  try {
    if (value === null) window[store].removeItem(`shelfrank.${name}`);
    else window[store].setItem(`shelfrank.${name}`, value);
  } catch {
    // Storage is off or full.
  }
}

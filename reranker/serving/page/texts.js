// Texts and numbers in the page's language.
import en from "./texts-en.js";
import zh from "./texts-zh.js";
import { kept, keep } from "./kept.js";

const TEXTS = { en, zh };
const TAGS = { en: "en", zh: "zh-Hans" };
let language = "en";

/** The language that was chosen before, else the first of the browser's that there is. */
export function firstLanguage() {
  const wanted = [kept("language"), ...navigator.languages].map((tag) => tag?.slice(0, 2).toLowerCase());
  return wanted.find((tag) => tag in TEXTS) ?? "en";
}

export const current = () => language;

/** Tell the page's own texts in another language and remember it. */
export function speak(chosen, remember) {
  language = chosen;
  if (remember) keep("language", chosen);
  document.documentElement.lang = TAGS[language];
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = text(element.dataset.label);
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = text(element.dataset.hint);
}

/** The language that the page is not in. */
export const other = () => (language === "en" ? "zh" : "en");

export const has = (key) => key in TEXTS[language];

/** A text with its values filled in; a value `n` decides between one and many. */
export function text(key, values = {}) {
  const one = typeof values.n === "number" && new Intl.PluralRules(language).select(values.n) === "one";
  const found = TEXTS[language][one && has(`${key}_one`) ? `${key}_one` : key];
  return found.replace(/\{(\w+)\}/g, (_, name) => (typeof values[name] === "number" ? number(values[name]) : values[name]));
}

const numeral = (value, options) => new Intl.NumberFormat(language, options).format(value).replace("-", "−");

export const number = (value, digits = 0) => numeral(value, { maximumFractionDigits: digits, signDisplay: "negative" });

/** Always with a sign and two decimals, as effects are told. */
export const signed = (value) =>
  numeral(value, { signDisplay: "exceptZero", minimumFractionDigits: 2, maximumFractionDigits: 2 });

/** A price; a currency that is none is written behind it. */
export function price(value, currency) {
  try {
    return new Intl.NumberFormat(language, { style: "currency", currency, currencyDisplay: "narrowSymbol" }).format(value);
  } catch {
    return [number(value, 2), currency].filter(Boolean).join(" ");
  }
}

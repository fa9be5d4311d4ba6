// localStorage for app/storage.py. MicroPython's `except` does not catch a JavaScript exception, so no function here throws.

/** Tells whether the browser stores values for this page, even if its store is full. */
export function works() {
  try {
    return localStorage.length >= 0;
  } catch { // SecurityError where storage is switched off
    return false;
  }
}

/** Store a text; returns "" or the error's message. */
export function keep(key, text) {
  try {
    localStorage.setItem(key, text);
    return '';
  } catch (error) {
    return error.message || String(error);
  }
}

const DEEPEST = 20; // levels of nesting that MicroPython can parse: its stack is small
const isObject = value => typeof value === 'object' && value !== null;
const isDeep = (value, left) => isObject(value) && (left === 0 || Object.values(value).some(each => isDeep(each, left - 1)));
const wellFormed = (key, value) => typeof value === 'string' && value.toWellFormed ? value.toWellFormed() : value;

const parsed = text => {
  try {
    const value = JSON.parse(text);
    return isDeep(value, DEEPEST) ? undefined : value;
  } catch {
    return undefined;
  }
};

/** Returns the JSON of a text in a form that MicroPython reads without loss: characters instead of \u escapes, no lone
    surrogates, no numbers outside JSON. "" when the text is not valid JSON, or nests too deeply. */
export function plain(text) {
  const value = parsed(text);
  return value === undefined ? '' : JSON.stringify(value, wellFormed);
}

/** Returns [[key, JSON text of its value], ...] of a text that is a JSON object, in its order, as JSON; "" for any other. */
export function entries(text) {
  const value = parsed(text);
  if (!isObject(value) || Array.isArray(value)) return '';
  return JSON.stringify(Object.entries(value).map(([key, each]) => [key, JSON.stringify(each)]), wellFormed);
}

export const read = key => localStorage.getItem(key);
export const forget = key => localStorage.removeItem(key);
export const keys = () => Object.keys(localStorage);

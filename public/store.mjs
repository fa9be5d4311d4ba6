// localStorage for app/storage.py. A JavaScript exception in a call from MicroPython passes Python's `except` by, so
// nothing here throws.

/** True when the browser keeps values for this page, be its store full or not. */
export function works() {
  try {
    return localStorage.length >= 0;
  } catch { // SecurityError where storage is switched off
    return false;
  }
}

/** Keep a text; returns "" or why it was refused. */
export function keep(key, text) {
  try {
    localStorage.setItem(key, text);
    return '';
  } catch (error) {
    return error.message || String(error);
  }
}

const DEEPEST = 20; // of nested values that MicroPython is given: its stack is short
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

/** The JSON value of a text, as MicroPython reads it without loss: characters for \u escapes, no half ones, no number
    beyond what JSON has. "" when the text is no JSON, or nests too deeply. */
export function plain(text) {
  const value = parsed(text);
  return value === undefined ? '' : JSON.stringify(value, wellFormed);
}

/** [[key, JSON text of its value], ...] of a text that is a JSON object, in its order, as JSON; "" of any other. */
export function entries(text) {
  const value = parsed(text);
  if (!isObject(value) || Array.isArray(value)) return '';
  return JSON.stringify(Object.entries(value).map(([key, each]) => [key, JSON.stringify(each)]), wellFormed);
}

export const read = key => localStorage.getItem(key);
export const forget = key => localStorage.removeItem(key);
export const keys = () => Object.keys(localStorage);

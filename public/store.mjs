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

export const read = key => localStorage.getItem(key);
export const forget = key => localStorage.removeItem(key);
export const keys = () => Object.keys(localStorage);

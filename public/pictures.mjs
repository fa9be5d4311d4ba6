// Pictures of the user: checked, held in memory, drawn small, written as data URLs.
//
// A picture is a Blob; its id is the sha256 of its bytes, so the same picture has one id everywhere. A message has only
// {"id", "name", "type", "width", "height", "nbytes", "alt"}; chat_store.mjs keeps the Blob beside it. No function that Python calls
// rejects: an error is {"error": {"name", "message"}}.

const MAX_BYTES = 20e6;
const MAX_PIXELS = 50e6; // the largest photographs of phones have 48 to 50 million
const THUMB = 480;       // longest side of a small picture, in pixels of the screen
const FORMATS = 'PNG, JPEG, WebP, GIF and BMP';

class NotPicture extends Error { name = 'NotPicture'; }
const refuse = words => { throw new NotPicture(words); };

const held = new Map();   // id -> Blob: pictures that this page has read
const thumbs = new Map(); // id -> promise of the address of a small picture

export const hold = (id, blob) => { held.set(id, blob); };
export const holding = id => held.get(id);

const number = value => Math.round(value).toLocaleString('en');
const megabytes = nbytes => `${(nbytes / 1e6).toFixed(1)} MB`;
const cut = name => name.length > 60 ? `${name.slice(0, 60)}\u2026` : name;

/** Check a File or Blob, and hold it. Returns the picture's fields as JSON, without "alt". */
export async function read(file) {
  try {
    return JSON.stringify(await checked(file, cut(file.name || 'picture')));
  } catch (error) {
    return JSON.stringify({ error: { name: error.name, message: error.message } });
  }
}

/** The same as an object. Throws NotPicture, in words that a user understands. */
export async function checked(file, name) {
  if (file.size > MAX_BYTES) refuse(`"${name}" has ${megabytes(file.size)}: a picture may have ${megabytes(MAX_BYTES)}. Make it smaller first.`);
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch (error) {
    refuse(`"${name}" could not be read: ${error.message}`);
  }
  const { headerOf } = await import('./picture_header.mjs');
  const { type, width, height } = headerOf(bytes);
  if (!type) refuse(`"${name}" is not a picture that can be read here: ${FORMATS} are.`);
  if (width === undefined) refuse(`"${name}" is damaged: its size cannot be read.`);
  if (!width || !height) refuse(`"${name}" has no pixels: it is ${width} \u00d7 ${height}.`);
  if (width * height > MAX_PIXELS) {
    refuse(`"${name}" is ${number(width)} \u00d7 ${number(height)} pixels: a picture may have ${number(MAX_PIXELS / 1e6)} million. Make it smaller first.`);
  }
  const blob = new Blob([bytes], { type }); // in memory: the file on the disk may change
  const bitmap = await createImageBitmap(blob).catch(() => refuse(`"${name}" is damaged: it cannot be decoded.`));
  const shown = { width: bitmap.width, height: bitmap.height }; // as EXIF turns it
  bitmap.close();
  const id = await sha256(bytes);
  held.set(id, blob);
  return { id, name, type, ...shown, nbytes: blob.size };
}

async function sha256(bytes) {
  if (crypto.subtle) {
    const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    return Array.from(sum, byte => byte.toString(16).padStart(2, '0')).join('');
  }
  const { start } = await import('./sha256.mjs'); // at an insecure address
  const sum = start();
  try {
    await sum.update(new Uint8Array(bytes));
    return await sum.digest();
  } finally {
    sum.close();
  }
}

/** Returns the address of a small copy, for the screen only: models get the picture itself. */
export function thumbOf(id, blob) {
  if (!thumbs.has(id)) thumbs.set(id, small(blob).then(copy => URL.createObjectURL(copy)));
  return thumbs.get(id);
}

async function small(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, THUMB / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise(done => canvas.toBlob(copy => done(copy ?? blob)));
}

/** Returns "data:image/png;base64,...". */
export const dataUrl = blob => new Promise((good, bad) => {
  const reader = new FileReader();
  reader.onload = () => good(reader.result);
  reader.onerror = () => bad(reader.error);
  reader.readAsDataURL(blob);
});

/** Returns the Blob of a data URL in base64, null for any other text. */
export function blobOf(url) {
  const [head, type] = /^data:([\w.+/-]*)(?:;[\w=.-]+)*;base64,/.exec(url.slice(0, 200)) ?? [];
  if (head === undefined) return null;
  try {
    const binary = atob(url.slice(head.length));
    return new Blob([Uint8Array.from(binary, c => c.charCodeAt(0))], { type });
  } catch {
    return null;
  }
}

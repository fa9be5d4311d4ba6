// Pictures on the screen and on their way to the model, for app/: read from the store when they are needed.

import { picture } from './chat_store.mjs';
import { dataUrl, thumbOf } from './pictures.mjs';

const NEAR = '800px'; // a picture is read when it is this near to what is seen
const MARK = 'picture:'; // + id: stands for the picture's data URL in a message that app/ makes

const waiting = new WeakMap(); // <img> -> [chat, id]
const observer = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    draw(target, ...waiting.get(target));
  }
}, { rootMargin: NEAR });

/** Show a small copy in an <img> once it is near to what is seen. `chat`: the chat that has the picture. */
export function show(img, chat, id) {
  waiting.set(img, [chat, id]);
  observer.observe(img);
}

async function draw(img, chat, id) {
  try {
    img.src = await thumbOf(id, await wanted(chat, id));
  } catch {
    img.closest('.picture')?.classList.add('missing');
  }
}

async function wanted(chat, id) {
  const blob = await picture(chat, id);
  if (!blob) throw new Error('the picture is not here');
  return blob;
}

/** Show the picture itself in an <img>, until `conceal`. */
export async function reveal(img, chat, id) {
  conceal(img);
  try {
    img.src = URL.createObjectURL(await wanted(chat, id));
  } catch { /* the alt text is shown */ }
}

export function conceal(img) {
  if (img.src.startsWith('blob:')) URL.revokeObjectURL(img.src);
  img.removeAttribute('src');
}

/** Returns {id: data URL} of the pictures (JSON: a list of ids) that are here. */
export async function urls(chat, ids) {
  const found = {};
  for (const id of JSON.parse(ids)) {
    try {
      found[id] = await dataUrl(await wanted(chat, id));
    } catch { /* `filled` says so to the model */ }
  }
  return found;
}

/** Put the data URLs into a message to the worker, in the place of "picture:ID". */
export function filled(message, found) {
  for (const turn of message.messages) {
    if (Array.isArray(turn.content)) turn.content = turn.content.map(part => withUrl(part, found));
  }
  return message;
}

function withUrl(part, found) {
  if (part.type !== 'image_url') return part;
  const url = found[part.image_url.url.slice(MARK.length)];
  return url ? { ...part, image_url: { ...part.image_url, url } } : { type: 'text', text: '[A picture that is no longer here]' };
}

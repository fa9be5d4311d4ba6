// Chats as files: the format that app/exports.py writes and those of other programs, converted to chat_store.mjs's records.
//
//   {"format": "jerboa-chats", "version": 1, "chats": [CHAT, ...]}
//   CHAT: {"id", "title", "updated", "chosen", "messages": [the conversation as it is shown], "others": [other versions]}
//   MESSAGE: {"role", "content", "id", "parent", "made", "pictures": [{"url": "data:...", "alt", "name", ...}], ...}
//
// Also accepted: one CHAT or a list of them; {"messages": [{"role", "content"}]} or that list alone; exports of Open WebUI, of
// ChatGPT (conversations.json) and of Claude. A message without an id gets one computed from its content, so importing a file
// twice adds nothing the second time. Any other file is refused with a message, and nothing of it is stored.

import { blobOf, checked, dataUrl } from './pictures.mjs';

const MAX_BYTES = 400e6; // a string can have 500 million letters
const DEEPEST = 24; // levels of nesting inside a message: MicroPython's stack is small
const MAX_NAME = 200;
const MAX_MESSAGES = 500_000;
const ROLES = { user: 'user', human: 'user', assistant: 'assistant', model: 'assistant', ai: 'assistant', bot: 'assistant',
  gpt: 'assistant', system: 'system', developer: 'system', tool: 'tool', function: 'tool' };

const WANTED = 'Choose a file that was downloaded here, or that another program wrote as an export of chats.';

class NotChats extends Error { name = 'NotChats'; }
const refuse = words => { throw new NotChats(words); };

const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value);
const isDeep = (value, left) => typeof value === 'object' && value !== null
  && (left === 0 || Object.values(value).some(each => isDeep(each, left - 1)));
const isName = value => typeof value === 'string' && value !== '' && value.length <= MAX_NAME;
const named = (...values) => values.find(isName);
const cut = (text, length) => text.length > length ? text.slice(0, length) + '\u2026' : text;

/** A 128-bit hash of a JSON value, as hex: FNV-1a in four lanes. A forged collision only loses a message of the forged file,
    because stored messages are compared by their full content. */
function digest(value) {
  const text = JSON.stringify(value);
  const lanes = [0x811c9dc5, 0x9e3779b9, 0x85ebca6b, 0xc2b2ae35];
  const factors = [0x01000193, 0x01000197, 0x010001a9, 0x010001b3];
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    for (let lane = 0; lane < 4; lane++) lanes[lane] = Math.imul(lanes[lane] ^ unit ^ (lanes[lane] >>> 15), factors[lane]);
  }
  return lanes.map(lane => (lane >>> 0).toString(16).padStart(8, '0')).join('');
}

/** Returns an ISO 8601 text for such a text, for seconds or for milliseconds; undefined for anything else. */
function moment(value) {
  const given = typeof value === 'number' && value > 0 ? new Date(value < 1e11 ? value * 1000 : value)
    : typeof value === 'string' && /^\d{4}-/.test(value) ? new Date(value) : null;
  return given && !isNaN(given) ? given.toISOString() : undefined;
}

// ---- reading

/** Returns [{chat, messages}] of a File. */
export async function chatsOfFile(file) {
  if (file.size > MAX_BYTES) refuse(`"${file.name}" is larger than ${MAX_BYTES / 1e6} MB, which is more than is read here.`);
  let value;
  try {
    value = JSON.parse(await file.text());
  } catch (error) {
    refuse(`"${file.name}" is no JSON that can be read: ${cut(error.message || String(error), 200)}`);
  }
  try {
    return chatsOf(value);
  } catch (error) {
    if (error instanceof NotChats) refuse(`"${file.name}" was not taken in. ${error.message} ${WANTED}`);
    throw error;
  }
}

/** Returns the same for a JSON value. */
export function chatsOf(value) {
  const list = Array.isArray(value) ? value : Array.isArray(value?.chats) ? value.chats : [value];
  if (value?.format === 'jerboa-chats' && value.version !== 1) refuse('It was written by a newer version of this page. Reload the page, then try again.');
  const count = list.reduce((sum, each) => sum + (each?.messages?.length || each?.chat_messages?.length || 1), 0);
  if (count > MAX_MESSAGES) refuse(`There are more than ${MAX_MESSAGES.toLocaleString('en')} messages in it: import it in parts.`);
  const messagesAlone = Array.isArray(value) && list.length && list.every(each => isObject(each) && 'role' in each && 'content' in each);
  const found = (messagesAlone ? [{ messages: list }] : list).map((each, i) => chatOf(each, `Chat ${i + 1}`)).filter(({ messages }) => messages.length);
  if (!found.length) refuse('There are no messages in it.');
  return found;
}

function chatOf(found, where) {
  if (!isObject(found)) refuse(`${where} is no JSON object.`);
  const chat = isObject(found.chat) ? { ...found.chat, ...found, title: named(found.title, found.chat.title) } : found; // Open WebUI
  const { list, chosen, current } = isObject(chat.mapping) ? ofMapping(chat)
    : isObject(chat.history?.messages) ? ofHistory(chat) : ofList(chat, where);
  const read = list.map((each, i) => messageOf(each, `${where}, message ${i + 1}`));
  const messages = placed(read, where);
  const id = named(chat.id, chat.conversation_id, chat.uuid) ?? digest(['chat', messages.map(({ id: each }) => each)]);
  const updated = moment(chat.updated) ?? moment(chat.updated_at) ?? moment(chat.update_time) ?? new Date().toISOString();
  const title = typeof (chat.title ?? chat.name) === 'string' ? cut((chat.title ?? chat.name).trim(), MAX_NAME) : '';
  const others = found.chat || chat.mapping || isDeep(found, DEEPEST) ? {} : rest(found, ['messages', 'others', 'chat_messages', 'draft']);
  const shown = chosen ?? chosenBy(messages, current);
  return { chat: { ...others, id, title: title || titleOf(shown, messages), updated, chosen: shown }, messages };
}

const rest = (value, without) => Object.fromEntries(Object.entries(value).filter(([key]) => !without.includes(key)));

function titleOf(chosen, messages) {
  const first = pathOf(chosen, messages).find(({ role, content }) => role !== 'system' && content.trim());
  return cut(first?.content.slice(0, 1000).split(/\s+/).join(' ').trim() ?? '', 60) || 'New chat';
}

function ofList(chat, where) {
  const list = chat.messages ?? chat.chat_messages;
  if (!Array.isArray(list)) refuse(`${where} has no list of messages.`);
  const others = Array.isArray(chat.others) ? chat.others : [];
  return { list: [...list, ...others], chosen: isObject(chat.chosen) ? texts(chat.chosen) : undefined };
}

const texts = value => Object.fromEntries(Object.entries(value).filter(([, each]) => typeof each === 'string'));

/** Open WebUI's format: {history: {messages: {id: {id, parentId, role, content, timestamp}}, currentId}}. */
function ofHistory(chat) {
  const list = Object.entries(chat.history.messages).map(([id, each]) =>
    isObject(each) ? { ...rest(each, ['parentId', 'childrenIds']), id, parent: each.parentId ?? '', made: each.timestamp } : each);
  return { list, current: chat.history.currentId };
}

/** ChatGPT's format: {mapping: {id: {message: {author: {role}, content: {parts}, create_time}, parent}}, current_node}. Nodes
    that are not a turn of the user or the model, or have no text, are left out; their children move to their parent. */
function ofMapping(chat) {
  const spoken = node => ['user', 'assistant'].includes(node?.message?.author?.role) && wordsOf(node.message.content) !== '';
  const above = id => {
    const passed = new Set();
    let node = chat.mapping[id];
    while (isObject(node) && typeof node.parent === 'string' && !passed.has(node.parent)) {
      passed.add(node.parent);
      if (spoken(chat.mapping[node.parent])) return node.parent;
      node = chat.mapping[node.parent];
    }
    return '';
  };
  const list = Object.entries(chat.mapping).filter(([, node]) => spoken(node)).map(([id, { message }]) => ({
    id, parent: above(id), made: message.create_time, role: message.author.role, content: wordsOf(message.content) }));
  const current = spoken(chat.mapping[chat.current_node]) ? chat.current_node : above(chat.current_node);
  return { list, current };
}

const wordsOf = content => Array.isArray(content?.parts) ? textOf(content.parts) : typeof content?.text === 'string' ? content.text : '';

/** Returns the text of a list of parts; a part without text is named. */
const textOf = parts => parts.map(part => typeof part === 'string' ? part : typeof part?.text === 'string' ? part.text
  : isObject(part) ? `[${cut(String(part.type ?? part.content_type ?? 'part'), 40)}]` : '').filter(Boolean).join('\n');

/** Returns a message with role, content, id, parent and made, where it has those; other fields are kept. */
function messageOf(found, where) {
  if (!isObject(found)) refuse(`${where} is no JSON object.`);
  if (isDeep(found, DEEPEST)) refuse(`${where} nests deeper than ${DEEPEST} values.`);
  const given = found.role ?? found.sender;
  const role = typeof given === 'string' && Object.hasOwn(ROLES, given.toLowerCase()) ? ROLES[given.toLowerCase()] : null;
  if (!role) refuse(`${where} has the role ${cut(JSON.stringify(given) ?? 'undefined', 60)}, which is none.`);
  const content = found.content ?? found.text ?? (found.tool_calls || found.reasoning || found.error || found.stats ? '' : undefined);
  if (typeof content !== 'string' && !Array.isArray(content)) refuse(`${where} has no text as its content.`);
  const pictures = [...picturesOf(content), ...picturesOf(found.files), ...Array.isArray(found.pictures) ? found.pictures.filter(isObject) : []];
  const others = Array.isArray(content) ? content.filter(part => !pictureUrl(part)) : [];
  const parts = Array.isArray(content) ? { content: textOf(others), parts: others } : { content };
  const reasoning = found.reasoning ?? found.reasoning_content;
  return { ...rest(found, ['sender', 'reasoning_content', 'pictures', 'files']), ...reasoning === undefined ? {} : { reasoning }, role, ...parts,
    ...pictures.length ? { pictures } : {}, ...found.files && !picturesOf(found.files).length ? { files: found.files } : {},
    id: named(found.id, found.uuid), made: moment(found.made) ?? moment(found.created_at) ?? moment(found.timestamp) };
}

// ---- pictures

/** The data URL of a part that is a picture (OpenAI's image_url and input_image, Open WebUI's files), else undefined. */
function pictureUrl(part) {
  if (!isObject(part) || !['image_url', 'input_image', 'image'].includes(part.type)) return undefined;
  const url = part.image_url?.url ?? part.image_url ?? part.url;
  return typeof url === 'string' && url.startsWith('data:image/') ? url : undefined;
}

const picturesOf = parts => Array.isArray(parts) ? parts.map(pictureUrl).filter(Boolean).map(url => ({ url })) : [];

/** Returns what a message holds of these pictures of a file, and has pictures.mjs hold the Blobs. One that cannot be read stays with
    its name, without a Blob. */
export async function pictureFields(pictures) {
  const found = [];
  for (const { url, alt, ...others } of pictures) {
    const name = cut(isName(others.name) ? others.name : 'picture', 60);
    const blob = typeof url === 'string' ? blobOf(url) : null;
    const words = isName(alt) ? { alt } : {};
    try {
      if (blob) found.push({ ...await checked(blob, name), ...words });
      else if (isName(others.id)) found.push({ id: others.id, name, ...words });
    } catch {
      found.push({ id: digest(['picture', url]), name, ...words });
    }
  }
  return found;
}

/** Add the data URLs of its pictures to a chat that is written to a file. `blobFor(id)` resolves to a Blob, or undefined. */
export async function withPictures({ messages, others = [] }, blobFor) {
  for (const { pictures = [] } of [...messages, ...others]) {
    for (const picture of pictures) {
      const blob = await blobFor(picture.id);
      if (blob) picture.url = await dataUrl(blob);
    }
  }
}

// ---- the tree

/** Fills in missing ids, parents and times; parents come first. A message without a parent follows the one before it. */
function placed(list, where) {
  const ids = new Set(list.map(({ id }) => id).filter(Boolean));
  let before = '';
  const known = list.map((each, i) => {
    const own = each.parent === undefined ? before : ids.has(each.parent) ? each.parent : '';
    const id = each.id ?? digest([own, each.role, each.content, each.reasoning ?? '', ...(each.pictures ?? []).map(({ url }) => url)]);
    before = id;
    return { ...each, id, parent: own, made: each.made ?? String(i).padStart(8, '0') };
  });
  const ordered = inOrder(known);
  if (ordered.length < new Set(known).size) refuse(`${where} has messages that follow each other in a circle.`);
  return ordered;
}

/** Sorts parents before children, siblings in the order they were made. */
function inOrder(messages) {
  const below = childrenOf(messages);
  const ordered = [], waiting = ['']; const passed = new Set();
  while (waiting.length) {
    const parent = waiting.pop();
    if (passed.has(parent)) continue;
    passed.add(parent);
    const children = below.get(parent) ?? [];
    for (const child of children) ordered.push(child);
    for (const child of children.toReversed()) waiting.push(child.id);
  }
  return ordered;
}

function childrenOf(messages) {
  const below = new Map();
  for (const each of messages) {
    if (below.has(each.parent)) below.get(each.parent).push(each); else below.set(each.parent, [each]);
  }
  for (const children of below.values()) children.sort((a, b) => a.made < b.made ? -1 : a.made > b.made ? 1 : a.id < b.id ? -1 : 1);
  return below;
}

/** Returns {parent: child} along the path to the message that was shown last. */
function chosenBy(messages, current) {
  const parents = new Map(messages.map(({ id, parent }) => [id, parent]));
  const chosen = {};
  while (parents.has(current) && !Object.hasOwn(chosen, parents.get(current))) {
    chosen[parents.get(current)] = current;
    current = parents.get(current);
  }
  return chosen;
}

// ---- merging with stored chats

const idsOf = ({ pictures = [] }) => pictures.map(({ id }) => id).join();
const sameWords = (a, b) => a.role === b.role && a.content === b.content && (a.reasoning ?? '') === (b.reasoning ?? '') && idsOf(a) === idsOf(b);

/** Compares `messages` (parents first) with the stored ones (`kept`). Returns {added: messages, outdated: ids,
    there: count}. If a message differs from the stored one with its id, it is added as another version, and those that
    follow it go below it. A stored answer that was cut off is outdated if the file has a longer one. */
export function merged(kept, messages) {
  const known = new Map(kept.map(each => [each.id, each]));
  const below = childrenOf(kept);
  const names = new Map([['', '']]);
  const added = [], outdated = [];
  let there = 0;
  for (const each of messages) {
    const parent = names.get(each.parent) ?? '';
    const other = known.get(each.id);
    const differs = other && !(sameWords(other, each) && other.parent === parent);
    const id = differs ? digest([parent, each.id, each.role, each.content, each.reasoning ?? '', ...each.pictures ? [idsOf(each)] : []]) : each.id;
    names.set(each.id, id);
    if (known.has(id)) {
      there += 1;
      continue;
    }
    const before = below.get(parent)?.at(-1);
    if (before && isCutOff(before) && before.role === each.role && each.content.startsWith(before.content) && !below.has(before.id)
      && !outdated.includes(before.id)) outdated.push(before.id);
    const message = { ...each, id, parent };
    known.set(id, message);
    added.push(message);
  }
  return { added, outdated, there };
}

/** Returns `chosen` for a chat that gets new versions: what is shown stays the same. */
export function pinned(chosen, kept, { added, outdated }) {
  const forks = new Set(added.map(({ parent }) => parent));
  const shown = pathOf(chosen, kept).filter(({ id, parent }) => forks.has(parent) && !outdated.includes(id));
  return { ...chosen, ...Object.fromEntries(shown.map(({ id, parent }) => [parent, id])) };
}

const isCutOff = ({ role, stats, error }) => role === 'assistant' && !stats && !error;

// ---- writing

/** Returns a chat in the file's format: first the conversation as it is shown. */
export function asFile(chat, messages) {
  const path = pathOf(chat.chosen, messages);
  const shown = new Set(path);
  return { ...chat, messages: path, others: messages.filter(each => !shown.has(each)) };
}

/** Walks down the path that is shown, as app/tree.py does. */
function pathOf(chosen, messages) {
  const below = childrenOf(messages);
  const path = []; const passed = new Set();
  let at = '';
  while (below.has(at) && !passed.has(at)) {
    passed.add(at);
    const children = below.get(at);
    const next = children.find(({ id }) => id === chosen?.[at]) ?? children.at(-1);
    path.push(next);
    at = next.id;
  }
  return path;
}

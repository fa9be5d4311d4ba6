// Chats on this device, for app/chats.py: in IndexedDB, one record a message, so that two tabs never overwrite each other's
// turns. Without IndexedDB, a chat is one text in localStorage, or lasts as long as the page (chat_fallback.mjs).
//
//   chats     {id, title, updated, chosen, ...}   chosen: {id of a parent: id of the message that is shown after it}
//   messages  {chat, id, parent, made, body}      parent: id of the message that it follows, "" for a first one
//   drafts    {chat, tab, text, pictures, updated} what was not sent, of each tab; chat "": a new chat
//   pictures  {chat, draft, id, blob}             draft: 1 if a draft has it, 0 if a message has it. pictures.mjs says what a message
//                                                 and a draft hold of a picture
//
// All data goes in and out as JSON text. A message there is its body with id, parent and made. MicroPython's `except` does not
// catch a JavaScript exception, so no function here throws or rejects: an error is returned as {"error": {"name", "message"}}.
// Changes are announced to other tabs over a BroadcastChannel.

import { holding, hold } from './pictures.mjs';

const NAME = 'jerboa-chats';
const VERSION = 2; // 1 had no pictures
const STORES = ['chats', 'messages', 'drafts', 'pictures'];
const OPEN_PATIENCE_MS = 8000; // some versions of WebKit never answer
const PATIENCE_MS = 20000;     // of one transaction; a disk may be busy
const FILE_PATIENCE_MS = 180000;

const tab = (() => {
  const fresh = Date.now().toString(36) + Math.random().toString(36).slice(2);
  try {
    const kept = sessionStorage.getItem('jerboa.tab') ?? fresh;
    sessionStorage.setItem('jerboa.tab', kept);
    return kept;
  } catch {
    return fresh;
  }
})();

// Each open tab holds the lock of its name. Another tab's draft is shown only when that tab is closed.
const LOCK = 'jerboa.tab.';
navigator.locks?.request(LOCK + tab, () => new Promise(() => {})).catch(() => {});
const livingTabs = async () => {
  const { held = [] } = await navigator.locks?.query().catch(() => ({})) ?? {};
  return new Set(held.map(({ name }) => name));
};

const wellFormed = (key, value) => typeof value === 'string' && value.toWellFormed ? value.toWellFormed() : value;
const json = value => JSON.stringify(value ?? null, wellFormed);
const told = error => ({ error: { name: error?.name || 'Error', message: error?.message || String(error) } });
const answer = work => work().then(json, error => json(told(error)));
const within = (promise, ms, words) => {
  let timer;
  const late = new Promise((_, bad) => { timer = setTimeout(() => bad(new Error(words)), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};
const promised = request => new Promise((good, bad) => {
  request.onsuccess = () => good(request.result);
  request.onerror = () => bad(request.error);
});

export const outside = ({ id, parent, made, body }) => ({ ...body, id, parent, made });
export const inside = (chat, { id, parent, made, ...body }) => ({ chat, id, parent: parent ?? '', made: made ?? '', body });

// ---- the database

class IndexedDb {
  kind = 'indexed-db';
  #db = null;

  async open() {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = ({ oldVersion }) => {
      const db = request.result;
      if (oldVersion < 1) {
        db.createObjectStore('chats', { keyPath: 'id' });
        db.createObjectStore('messages', { keyPath: ['chat', 'id'] });
        db.createObjectStore('drafts', { keyPath: ['chat', 'tab'] });
      }
      db.createObjectStore('pictures', { keyPath: ['chat', 'draft', 'id'] });
    };
    this.#db = await within(promised(request), OPEN_PATIENCE_MS, 'the database of this browser does not answer');
    this.#db.onversionchange = () => { // a newer page upgrades the database
      this.#db?.close();
      this.#db = null;
    };
    this.#db.onclose = () => { this.#db = null; };      // the user deleted this site's data
    return this;
  }

  begin(mode, durability = 'relaxed') {
    return new Transaction(this.#db.transaction(STORES, mode, { durability }));
  }

  async run(mode, work, durability, patience = PATIENCE_MS) {
    if (!this.#db) await this.open();
    const transaction = this.begin(mode, durability);
    return within(transaction.run(work), patience, 'the database of this browser does not answer');
  }
}

/** Each method returns a promise. run() resolves when everything is stored, and rejects when nothing is. */
class Transaction {
  #transaction;
  #ended;

  constructor(transaction) {
    this.#transaction = transaction;
    this.#ended = new Promise((good, bad) => {
      transaction.oncomplete = () => good();
      transaction.onabort = () => bad(transaction.error ?? new Error('the database gave the change up'));
    });
    this.#ended.catch(() => {}); // the error is handled where run() is awaited
  }

  async run(work) {
    let value;
    try {
      value = await work(this);
    } catch (error) {
      try { this.#transaction.abort(); } catch { /* it ended by itself */ }
      throw this.#transaction.error ?? error;
    }
    this.commit();
    await this.#ended;
    return value;
  }

  commit() {
    try { this.#transaction.commit?.(); } catch { /* it ended by itself */ }
  }

  #store(name) { return this.#transaction.objectStore(name); }
  #of(chat) { return IDBKeyRange.bound([chat], [chat, []]); }

  chat(id) { return promised(this.#store('chats').get(id)); }
  chats() { return promised(this.#store('chats').getAll()); }
  drafts() { return promised(this.#store('drafts').getAll()); }
  draftsOf(chat) { return promised(this.#store('drafts').getAll(this.#of(chat))); }
  messages(chat) { return promised(this.#store('messages').getAll(this.#of(chat))); }
  message(chat, id) { return promised(this.#store('messages').get([chat, id])); }
  count(chat) { return promised(this.#store('messages').count(this.#of(chat))); }
  putChat(record) { return promised(this.#store('chats').put(record)); }
  putMessage(record) { return promised(this.#store('messages').put(record)); }
  dropMessage(chat, id) { return promised(this.#store('messages').delete([chat, id])); }
  putDraft(record) { return promised(this.#store('drafts').put(record)); }
  dropDraft(chat, name) { return promised(this.#store('drafts').delete([chat, name])); }
  picture(chat, draft, id) { return promised(this.#store('pictures').get([chat, draft, id])); }
  pictures() { return promised(this.#store('pictures').getAll()); }
  putPicture(record) { return promised(this.#store('pictures').put(record)); }
  dropPicture(chat, draft, id) { return promised(this.#store('pictures').delete([chat, draft, id])); }

  /** The ids of the pictures of a chat's drafts (1) or messages (0). */
  async pictureIds(chat, draft) {
    const range = IDBKeyRange.bound([chat, draft], [chat, draft, []]);
    return (await promised(this.#store('pictures').getAllKeys(range))).map(key => key[2]);
  }

  drop(chat) {
    return Promise.all([promised(this.#store('chats').delete(chat)),
      ...['messages', 'drafts', 'pictures'].map(name => promised(this.#store(name).delete(this.#of(chat))))]);
  }
}

let reason = ''; // why IndexedDB is not used
let store = null;
const opening = (async () => {
  try {
    store = await new IndexedDb().open();
  } catch (error) {
    reason = error?.message || String(error);
    const { Texts } = await import('./chat_fallback.mjs');
    store = new Texts();
  }
  return store;
})();

// ---- other tabs

const channel = typeof BroadcastChannel === 'function' ? new BroadcastChannel(NAME) : null;
const tell = change => { channel?.postMessage(change); };

/** `heard(text)` is called with {op: "wrote", chat, ids, outdated, fresh} or {op: "dropped", chat (null: all)}. */
export function listen(heard) {
  if (channel) channel.onmessage = ({ data }) => heard(json(data));
}

// ---- for app/chats.py

/** Returns {kind: "indexed-db", "local-storage" or "memory", reason}. */
export const opened = () => answer(async () => ({ kind: (await opening).kind, reason }));

/** Returns [{id, title, updated}], in no order. */
export const list = () => answer(async () =>
  (await read(t => t.chats())).map(({ id, title, updated }) => ({ id, title, updated })));

const read = async work => (await opening).run('readonly', work);
const change = async (work, durability) => (await opening).run('readwrite', work, durability);

const adopted = new Map(); // chat -> the closed tab whose draft is shown in this one

/** Returns {chat, messages, draft: {text, pictures}}; chat is null if there is none of this id ("": returns the draft of a new
    chat). */
export const load = id => answer(async () => {
  const living = await livingTabs();
  const [chat, messages, drafts] = await read(t => Promise.all([t.chat(id), t.messages(id), t.draftsOf(id)]));
  const mine = drafts.find(draft => draft.tab === tab);
  const gone = drafts.filter(draft => !living.has(LOCK + draft.tab)).sort((a, b) => a.updated < b.updated ? 1 : -1);
  const draft = mine ?? gone[0];
  if (draft && !mine) { // from now on the draft belongs to this tab
    adopted.set(id, draft.tab);
    await change(t => putDraft(t, id, draft)).catch(() => {});
  }
  const pictures = draft?.pictures ?? [];
  for (const { id: name } of pictures) await heldPicture(id, 1, name);
  return { chat: chat ?? null, messages: messages.map(outside), draft: { text: draft?.text ?? '', pictures } };
});

/** The Blob of a picture, undefined if it is not here. */
async function heldPicture(chat, draft, id) {
  if (!holding(id)) {
    const found = await read(t => t.picture(chat, draft, id));
    if (found) hold(id, found.blob);
  }
  return holding(id);
}

/** The Blob of a message's picture, for picture_view.mjs. Rejects when the store does not answer. */
export const picture = (chat, id) => heldPicture(chat, 0, id);

/** Returns {count, nbytes} of all pictures that are stored. */
export const picturesSize = () => answer(async () => {
  const found = await read(t => t.pictures());
  return { count: found.length, nbytes: found.reduce((sum, { blob }) => sum + blob.size, 0) };
});

/** Returns messages by their ids (JSON); deleted ones are left out. */
export const some = (id, ids) => answer(() => read(async t => {
  const found = await Promise.all(JSON.parse(ids).map(each => t.message(id, each)));
  return found.filter(Boolean).map(outside);
}));

/** Store `messages` (the first one new, the others below it) and the chat's record. `seen`: how many of the chat's messages
    this page knows to be stored. Pictures of the messages that are not stored yet are held by this page. `follow`: messages that another tab has added after the first one's parent stay before it.
    `sent`: the draft of this tab that has become a message. `fresh`: other tabs may show the messages. Returns {parent,
    others}: the parent with which the first message was stored, and if another tab has added messages, all that were
    stored before; or {gone}: the chat was deleted, and nothing is stored. */
export const write = text => answer(async () => {
  const { chat, messages, seen, follow, sent, fresh, strict } = JSON.parse(text);
  const found = await change(async t => {
    const count = await t.count(chat.id);
    if (seen && !count) return { gone: true };
    let others = [];
    if (follow && count > seen) {
      others = await t.messages(chat.id);
      messages[0].parent = newestBelow(others, messages[0].parent);
    }
    await Promise.all([t.putChat(chat), ...messages.map(each => t.putMessage(inside(chat.id, each)))]);
    for (const each of messages) await putPictures(t, chat.id, 0, each.pictures);
    if (typeof sent === 'string') {
      await dropDrafts(t, sent);
      await tidyDrafts(t, sent);
    }
    return { parent: messages[0]?.parent ?? '', others: others.map(outside) };
  }, strict ? 'strict' : 'relaxed');
  if (!found.gone && messages.length) tell({ op: 'wrote', chat: chat.id, ids: messages.map(({ id }) => id), outdated: [], fresh: Boolean(fresh) });
  return found;
});

function newestBelow(messages, parent) {
  const below = new Map();
  for (const each of messages) {
    const other = below.get(each.parent);
    if (!other || other.made < each.made) below.set(each.parent, each);
  }
  const passed = new Set();
  while (below.has(parent) && !passed.has(parent)) {
    passed.add(parent);
    parent = below.get(parent).id;
  }
  return parent;
}

const dropDrafts = (t, chat) => {
  const names = [tab, adopted.get(chat)].filter(Boolean);
  adopted.delete(chat);
  return Promise.all(names.map(name => t.dropDraft(chat, name)));
};

/** Store what is in the message box of a chat: text, and pictures (JSON). Nothing of either: deletes it. */
export const draft = (chat, text, pictures) => answer(() => change(async t => {
  const unsent = { text, pictures: JSON.parse(pictures) };
  await putDraft(t, chat, unsent);
  await putPictures(t, chat, 1, unsent.pictures);
  await tidyDrafts(t, chat);
}));

const putDraft = (t, chat, { text, pictures = [] }) => Promise.all([dropDrafts(t, chat),
  ...text || pictures.length ? [t.putDraft({ chat, tab, text, pictures, updated: new Date().toISOString() })] : []]);

/** Store those pictures that this page holds and the store lacks. */
async function putPictures(t, chat, draft, pictures) {
  if (!pictures?.length) return;
  const there = new Set(await t.pictureIds(chat, draft));
  for (const { id } of pictures) if (!there.has(id) && holding(id)) await t.putPicture({ chat, draft, id, blob: holding(id) });
}

/** Delete the pictures that no draft of this chat has any more. */
async function tidyDrafts(t, chat) {
  const ids = await t.pictureIds(chat, 1);
  if (!ids.length) return;
  const wanted = new Set((await t.draftsOf(chat)).flatMap(({ pictures = [] }) => pictures.map(({ id }) => id)));
  for (const id of ids) if (!wanted.has(id)) await t.dropPicture(chat, 1, id);
}

/** Save before the page closes, without waiting. `text`: {draft: {chat, text, pictures} or null, writes: [{chat, record, messages,
    sent}]}. record: that of a new chat, else null. sent: the chat whose draft has become a message, else null. */
export function last(text) {
  const { draft: unsent, writes } = JSON.parse(text);
  try {
    const transaction = store.begin('readwrite');
    const pictures = (chat, draft, list = []) => list.filter(({ id }) => holding(id))
      .map(({ id }) => transaction.putPicture({ chat, draft, id, blob: holding(id) }));
    const asked = writes.flatMap(({ chat, record, messages, sent }) => [
      ...record ? [transaction.putChat(record)] : [],
      ...messages.flatMap(each => [transaction.putMessage(inside(chat, each)), ...pictures(chat, 0, each.pictures)]),
      ...typeof sent === 'string' ? [dropDrafts(transaction, sent)] : []]);
    if (unsent) asked.push(putDraft(transaction, unsent.chat, unsent), ...pictures(unsent.chat, 1, unsent.pictures));
    for (const each of asked) each.catch(() => {}); // the page closes: nobody sees an error
    transaction.commit();
  } catch { /* there is no store, or it is closed */ }
}

/** Delete a chat with all that belongs to it. */
export const drop = id => answer(async () => {
  await change(t => t.drop(id), 'strict');
  tell({ op: 'dropped', chat: id });
});

/** Delete every chat. */
export const dropAll = () => answer(async () => {
  await change(async t => {
    const [chats, drafts] = await Promise.all([t.chats(), t.drafts()]);
    const names = new Set([...chats.map(({ id }) => id), ...drafts.map(({ chat }) => chat)]);
    await Promise.all([...names].map(name => t.drop(name)));
  }, 'strict');
  tell({ op: 'dropped', chat: null });
});

/** Returns {url}: the URL of a file with every chat; the caller revokes it. `ours` (JSON): chats in the page's memory,
    which may be newer than the store. */
export const everything = ours => answer(async () => {
  const held = new Map(JSON.parse(ours).map(chat => [chat.id, chat]));
  const { asFile } = await import('./chat_files.mjs');
  const kept = await read(async t => {
    const chats = await t.chats();
    return Promise.all(chats.map(async chat => ({ chat, messages: (await t.messages(chat.id)).map(outside) })));
  });
  const found = kept.map(({ chat, messages }) => {
    const mine = held.get(chat.id);
    held.delete(chat.id);
    return mine ?? asFile(chat, messages);
  });
  const chats = [...found, ...held.values()];
  return { url: await urlOf(chats, { format: 'jerboa-chats', version: 1 }) };
});

/** Returns {url}: the URL of a file with this chat (JSON, as app/tree.py's as_file); the caller revokes it. */
export const file = text => answer(async () => ({ url: await urlOf([JSON.parse(text)], null) }));

/** The URL of a file with these chats and their pictures: a list under "chats" of `frame`, without one a single chat. */
async function urlOf(chats, frame) {
  const { withPictures } = await import('./chat_files.mjs');
  const parts = [];
  for (const chat of chats) { // a text each, since all of them may be longer than a string can be
    await withPictures(chat, id => heldPicture(chat.id, 0, id).catch(() => undefined));
    parts.push(parts.length ? ',' : '', json(chat));
  }
  const whole = frame ? [json(frame).slice(0, -1), ',"chats":[', ...parts, ']}'] : parts;
  return URL.createObjectURL(new Blob(whole, { type: 'application/json;charset=utf-8' }));
}

/** Import chats: `text` is JSON in any format that chat_files.mjs reads. Returns {first, changes, chats, messages,
    there}: the id of the first chat, the changes that were announced to other tabs, how many chats and messages were
    imported, and how many messages were here already. */
export const takeIn = text => answer(async () => takeAll((await import('./chat_files.mjs')).chatsOf(JSON.parse(text))));

/** Import a file that a user chose. Returns {error} with a message if it holds no chats. */
export const takeFile = file => answer(async () => takeAll(await (await import('./chat_files.mjs')).chatsOfFile(file)));

/** Import all of them, or none. */
async function takeAll(chats) {
  const { merged, pinned, pictureFields } = await import('./chat_files.mjs');
  for (const { messages } of chats) for (const each of messages) if (each.pictures) each.pictures = await pictureFields(each.pictures);
  const take = async (t, { chat, messages }) => {
    const [known, kept] = await Promise.all([t.chat(chat.id), t.messages(chat.id)]);
    const there = kept.map(outside);
    const news = merged(there, messages);
    const record = known ? { ...known, updated: later(known, chat), chosen: pinned(known.chosen, there, news) } : chat;
    if (!known || news.added.length) await t.putChat(record);
    const { added, outdated } = news;
    await Promise.all([...outdated.map(id => t.dropMessage(chat.id, id)), ...added.map(each => t.putMessage(inside(chat.id, each)))]);
    for (const each of added) await putPictures(t, chat.id, 0, each.pictures);
    return { chat: chat.id, ids: added.map(({ id }) => id), outdated, there: news.there };
  };
  const taken = await (await opening).run('readwrite', async t => {
    const found = [];
    for (const each of chats) found.push(await take(t, each));
    return found;
  }, 'strict', FILE_PATIENCE_MS);
  const news = taken.filter(({ ids }) => ids.length);
  await verify(news);
  const changes = news.map(({ chat, ids, outdated }) => ({ op: 'wrote', chat, ids, outdated, fresh: false }));
  changes.forEach(tell);
  const sum = numbers => numbers.reduce((a, b) => a + b, 0);
  return { first: taken[0]?.chat ?? '', changes, chats: news.length, messages: sum(news.map(({ ids }) => ids.length)), there: sum(taken.map(({ there }) => there)) };
}

const later = (a, b) => a.updated > b.updated ? a.updated : b.updated;

const verify = taken => read(async t => {
  for (const { chat, ids } of taken) {
    const kept = new Set((await t.messages(chat)).map(({ id }) => id));
    if (!ids.every(id => kept.has(id))) throw new Error('the database lost what it had confirmed');
  }
});

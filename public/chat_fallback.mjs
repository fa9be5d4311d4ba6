// Chats where the browser has no IndexedDB: each is one text in localStorage, or in memory where that is refused too. The
// methods are those of chat_store.mjs's transactions. A change is written as a whole at its end, or not at all. Pictures last as
// long as the page: localStorage has no room for them.

const CHAT = 'jerboa.kept.';
const DRAFT = 'jerboa.draft.';

const pictures = new Map(); // JSON of the key [chat, draft, id] -> record

/** localStorage's interface in memory: lasts as long as the page. */
class Memory {
  #texts = new Map();
  get length() { return this.#texts.size; }
  key(number) { return [...this.#texts.keys()][number]; }
  getItem(key) { return this.#texts.get(key) ?? null; }
  setItem(key, text) { this.#texts.set(key, text); }
  removeItem(key) { this.#texts.delete(key); }
}

export class Texts {
  #area;
  #before = Promise.resolve(); // changes run one after another

  constructor() {
    try {
      localStorage.setItem('jerboa.probe', '');
      localStorage.removeItem('jerboa.probe');
      this.#area = localStorage;
    } catch {
      this.#area = new Memory();
    }
    this.kind = this.#area instanceof Memory ? 'memory' : 'local-storage';
  }

  begin() { return new Change(this.#area); }

  run(mode, work) {
    const done = this.#before.then(async () => {
      const change = this.begin();
      const value = await work(change);
      change.commit();
      return value;
    });
    this.#before = done.catch(() => {});
    return done;
  }
}

class Change {
  #area;
  #chats = new Map();  // id -> {chat, messages} that were read or created; null: deleted
  #drafts = new Map(); // key -> text, or null
  #changed = new Set();

  constructor(area) { this.#area = area; }

  #names(start) {
    const keys = Array.from({ length: this.#area.length }, (_, i) => this.#area.key(i));
    return keys.filter(key => key.startsWith(start)).map(key => key.slice(start.length));
  }

  #read(key) {
    try { return JSON.parse(this.#area.getItem(key)); } catch { return null; }
  }

  #whole(id) {
    if (!this.#chats.has(id)) this.#chats.set(id, this.#read(CHAT + id));
    return this.#chats.get(id);
  }

  #made(id) {
    if (!this.#whole(id)) this.#chats.set(id, { chat: null, messages: [] });
    this.#changed.add(id);
    return this.#whole(id);
  }

  async chat(id) { return this.#whole(id)?.chat ?? undefined; }
  async chats() { return this.#names(CHAT).map(id => this.#whole(id)?.chat).filter(Boolean); }
  async messages(id) { return this.#whole(id)?.messages ?? []; }
  async message(chat, id) { return this.#whole(chat)?.messages.find(each => each.id === id); }
  async count(id) { return this.#whole(id)?.messages.length ?? 0; }
  async putChat(record) { this.#made(record.id).chat = record; }

  async putMessage(record) {
    const { messages } = this.#made(record.chat);
    const at = messages.findIndex(each => each.id === record.id);
    messages.splice(at < 0 ? messages.length : at, at < 0 ? 0 : 1, record);
  }

  async dropMessage(chat, id) {
    const whole = this.#made(chat);
    whole.messages = whole.messages.filter(each => each.id !== id);
  }

  async drafts() { return this.#names(DRAFT).map(key => this.#read(DRAFT + key)).filter(Boolean); }
  async draftsOf(chat) { return (await this.drafts()).filter(each => each.chat === chat); }
  async putDraft(record) { this.#drafts.set(record.chat + ' ' + record.tab, JSON.stringify(record)); }
  async dropDraft(chat, tab) { this.#drafts.set(chat + ' ' + tab, null); }

  async picture(...key) { return pictures.get(JSON.stringify(key)); }
  async pictures() { return [...pictures.values()]; }
  async putPicture(record) { pictures.set(JSON.stringify([record.chat, record.draft, record.id]), record); }
  async dropPicture(...key) { pictures.delete(JSON.stringify(key)); }
  async pictureIds(chat, draft) { return (await this.pictures()).filter(each => each.chat === chat && each.draft === draft).map(({ id }) => id); }

  async drop(id) {
    for (const [key, { chat }] of pictures) if (chat === id) pictures.delete(key);
    this.#made(id);
    this.#chats.set(id, null);
    for (const { chat, tab } of await this.draftsOf(id)) this.#drafts.set(chat + ' ' + tab, null);
  }

  commit() {
    const set = (key, text) => text === null ? this.#area.removeItem(key) : this.#area.setItem(key, text);
    for (const id of this.#changed) set(CHAT + id, this.#chats.get(id) && JSON.stringify(this.#chats.get(id)));
    for (const [key, text] of this.#drafts) set(DRAFT + key, text);
  }
}

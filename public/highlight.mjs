// Colours for code, by highlight.js, which is loaded when the first code block in a language that it may know has ended.
// What comes of it are spans of text: its own HTML is never used.

const MOST_CHARACTERS = 50_000; // longer code stays plain: colouring it would hold the page up
const MOST_KEPT = 32;
const SLICE_MS = 8;
let library = null; // a promise of its module
let ready = null; // the module, once it is here

/** Collects what highlight.js finds, as nodes. Its own emitter shows which calls it makes: both names of each. */
class Nodes {
  constructor() {
    this.root = document.createDocumentFragment();
    this.open = [this.root];
  }

  addText(text) { this.open.at(-1).append(text); }

  openNode(scope) {
    const span = document.createElement('span');
    span.className = 'hl-' + scope.split('.')[0];
    this.open.at(-1).append(span);
    this.open.push(span);
  }

  closeNode() { if (this.open.length > 1) this.open.pop(); }

  startScope(scope) { this.openNode(scope); }

  endScope() { this.closeNode(); }

  __addSublanguage(other) { this.open.at(-1).append(other.root); }

  finalize() { this.open = [this.root]; }

  toHTML() { return ''; }
}

const load = async () => {
  const { default: hljs } = await import('./vendor/highlight/highlight.min.js');
  hljs.configure({ __emitter: Nodes });
  ready = hljs;
};

/** The nodes of a code's text, null where its language is not known. */
const colour = (text, language) => {
  if (!ready.getLanguage(language)) return null;
  const { root } = ready.highlight(text, { language, ignoreIllegals: true })._emitter;
  return root.textContent === text ? root : null;
};

const queue = []; // code elements that wait for their colours, with their languages
const coloured = new Map(); // the last ones, by language and text: a list that grows is built again and again

const show = (code, key, nodes) => {
  coloured.delete(key);
  coloured.set(key, nodes);
  if (coloured.size > MOST_KEPT) coloured.delete(coloured.keys().next().value);
  code.replaceChildren(nodes.cloneNode(true));
};

/** Colour what waits, with a pause after some milliseconds: a long chat has many blocks. */
const work = () => {
  const until = performance.now() + SLICE_MS;
  while (queue.length && performance.now() < until) {
    const [code, language] = queue.shift();
    const text = code.textContent;
    const nodes = code.isConnected && !code.childElementCount ? colour(text, language) : null;
    if (nodes) show(code, `${language}\n${text}`, nodes);
  }
  if (queue.length) setTimeout(work);
};

/** Colour a code element that holds its whole text, soon or when the library is here; without it the text stays plain. */
export async function highlight(code, language) {
  const text = code.textContent;
  if (!language || code.childElementCount || text.length > MOST_CHARACTERS) return;
  const key = `${language}\n${text}`;
  const known = coloured.get(key);
  if (known) {
    show(code, key, known);
    return;
  }
  queue.push([code, language]);
  if (!ready) {
    library ??= load();
    try {
      await library;
    } catch {
      library = null; // offline before its first use, perhaps: the next block tries again
      return;
    }
  }
  if (queue.length) setTimeout(work);
}

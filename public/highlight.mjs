// Colours code with highlight.js, which is loaded when the first code block in a language that it may know has ended. Its
// result is used only as spans of text, never as HTML.

const MOST_CHARACTERS = 50_000; // longer code stays plain: colouring it would block the page
const MOST_KEPT = 32;
const SLICE_MS = 8;
let library = null; // a promise of its module
let ready = null; // the module, once it is loaded

/** Collects the result of highlight.js as nodes. Both names of each method are needed, as in its own emitter. */
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

/** Returns the nodes of a code's text, null if its language is not known. */
const colour = (text, language) => {
  if (!ready.getLanguage(language)) return null;
  const { root } = ready.highlight(text, { language, ignoreIllegals: true })._emitter;
  return root.textContent === text ? root : null;
};

const queue = []; // code elements to be coloured, with their languages
const coloured = new Map(); // the last results, by language and text: a growing list is rebuilt again and again

const show = (code, key, nodes) => {
  coloured.delete(key);
  coloured.set(key, nodes);
  if (coloured.size > MOST_KEPT) coloured.delete(coloured.keys().next().value);
  code.replaceChildren(nodes.cloneNode(true));
};

/** Colour the queue, with pauses every few milliseconds: a long chat has many blocks. */
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

/** Colour a code element that holds its whole text, soon or when the library is loaded; without it the text stays plain. */
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
      library = null; // perhaps offline before its first use; the next block tries again
      return;
    }
  }
  if (queue.length) setTimeout(work);
}

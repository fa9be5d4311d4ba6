// Colours for code, by highlight.js, which is loaded when the first code block in a language that it may know has ended.
// What comes of it are spans of text: its own HTML is never used.

const MOST_CHARACTERS = 50_000; // longer code stays plain: colouring would hold the page up
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

const colour = (code, language) => {
  const text = code.textContent;
  if (!ready.getLanguage(language)) return;
  const { root } = ready.highlight(text, { language, ignoreIllegals: true })._emitter;
  if (root.textContent === text) code.replaceChildren(root);
};

/** Colour a code element that holds its whole text, now or when the library is here; without it the text stays plain. */
export async function highlight(code, language) {
  if (!language || code.childElementCount || code.textContent.length > MOST_CHARACTERS) return;
  if (!ready) {
    library ??= load();
    try {
      await library;
    } catch {
      library = null; // offline before its first use, perhaps: the next block tries again
      return;
    }
  }
  colour(code, language);
}

// Builds DOM nodes from the trees of app/markdown.py, in one call from Python. Safe by construction: only the tags below, text
// only as text nodes, no attribute except a checked http(s) link, a list's first number, a cell's alignment. Nothing is
// fetched.
//
// A tree is a string or [tag, ...children]; ["a", url, ...], ["ol", first, ...], ["th"|"td", alignment, ...],
// ["fence", language, text, whether it has ended].

import { highlight } from './highlight.mjs';

const PLAIN = new Set(['p', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'ul', 'li', 'blockquote', 'hr', 'br', 'strong', 'em', 'del',
  'code', 'thead', 'tbody', 'tr']);
const ALIGNMENTS = new Set(['left', 'center', 'right']);

const build = tree => {
  if (typeof tree === 'string') return document.createTextNode(tree);
  const [tag, first, ...others] = tree;
  if (tag === 'fence') return fill(document.getElementById('t-code').content.cloneNode(true).firstElementChild, tree);
  if (tag === 'table') {
    const frame = make('div', []);
    frame.className = 'table';
    frame.append(make('table', tree.slice(1)));
    return frame;
  }
  if (tag === 'a') return link(first, others);
  if (tag === 'ol') {
    const list = make('ol', others);
    list.start = Number(first) || 1;
    return list;
  }
  if (tag === 'th' || tag === 'td') {
    const cell = make(tag, others);
    if (ALIGNMENTS.has(first)) cell.className = first;
    return cell;
  }
  if (!PLAIN.has(tag)) throw new Error(`markdown has no ${tag}`);
  const node = make(tag, tree.slice(1));
  if (tag === 'code') node.dir = 'ltr'; // so that it does not decide the direction of the text around it
  return node;
};

const make = (tag, children) => {
  const node = document.createElement(tag);
  node.append(...children.map(build));
  return node;
};

const link = (address, children) => {
  let url = null;
  try { url = new URL(address); } catch { /* not an absolute address */ }
  if (url?.protocol !== 'https:' && url?.protocol !== 'http:') {
    const text = document.createDocumentFragment();
    text.append(...children.map(build));
    return text;
  }
  const node = make('a', children);
  node.href = url.href;
  node.target = '_blank';
  node.rel = 'noopener noreferrer nofollow';
  node.title = url.href;
  if (node.textContent === address) node.dir = 'ltr';
  return node;
};

/** Show a code block in its node; unchanged text is left alone, colours included. */
const fill = (node, [, language, text, ended]) => {
  node.querySelector('span').textContent = language;
  const code = node.querySelector('code');
  if (code.textContent !== text) code.textContent = text;
  if (ended) highlight(code, language);
  return node;
};

/** Keep root's first `keep` children and put the trees (JSON) after them. A growing code block keeps its node. */
export function update(root, keep, json) {
  const trees = JSON.parse(json);
  const old = root.children[keep];
  if (old?.className === 'code' && trees[0]?.[0] === 'fence') {
    fill(old, trees.shift());
    keep += 1;
  }
  while (root.childNodes.length > keep) root.lastChild.remove();
  root.append(...trees.map(build));
  // Each block has the direction of its own text; code, in the template, is always left to right.
  for (const node of [...root.children].slice(keep)) if (!node.dir) node.dir = 'auto';
}

// The service worker: caches the shell (the page, Pyodide, wheels, the engine with its shaders) of one version, so that the
// page opens without a network. Weights are not cached here: py_engine/kept stores them.
//
// The server puts a line before this file, made from what it serves (devtools/site.py, Site.shell):
//   const SHELL = {version, files: {path: integrity}, policies: {document, other}, snapshots: {caches, sources}};
//
// A new version is fetched completely beside the old one and waits until a user consents (public/updates.mjs). Then it answers
// pages opened from that moment on; open tabs stay with the files of their own version.

const SCOPE = self.registration.scope;
const PREFIX = `shell-${new URL(SCOPE).pathname} `; // a copy in another folder of the origin has its own prefix
const NAME = PREFIX + SHELL.version;
const INDEX = './';
const CONFIG = 'config.json';  // the list of models: from the network if possible, else the cached copy
// {client: version} of the tabs and workers that came with an older version; stored in the cache of the active version.
const PINS = 'pins.json';
const CONFIG_PATIENCE_MS = 3000;

const EVENTS = {
  install: event => event.waitUntil(precache()),
  activate: event => event.waitUntil(takeCharge()),
  message: event => { if (event.data?.op === 'take-charge') self.skipWaiting(); },
  fetch: answer,
};
for (const [type, act] of Object.entries(EVENTS)) self.addEventListener(type, act);

const LABEL = 'X-Shell-File';  // header of a cached file: its checksum, and its policy

const policyOf = path => SHELL.policies[path === INDEX || path.endsWith('.html') ? 'document' : 'other'];
const labelOf = path => `${SHELL.files[path]} ${policyOf(path)}`;
const addressOf = path => new URL(path, SCOPE).href;
const kept = (path, name) => caches.match(addressOf(path), { cacheName: name, ignoreVary: true });

// ---- installing a version

/** Fetch every file; unchanged ones are copied from an older version. Fails as a whole. The files fetched so far stay for the
    next try, unless the store is full. */
async function precache() {
  const names = (await ownCaches()).reverse();
  const keep = async path => {
    const file = await copyOf(path, names) ?? dressed(path, await fetched(path));
    const cache = await caches.open(NAME);
    await cache.put(addressOf(path), file);
  };
  try {
    const all = await Promise.allSettled(Object.keys(SHELL.files).map(keep));
    for (const { reason } of all) if (reason) throw reason;
  } catch (error) {
    if (error.name === 'QuotaExceededError' && !await kept(PINS, NAME)) await caches.delete(NAME);
    throw error;
  }
  await freshElseKept(addressOf(CONFIG)); // so that the list of models is there offline; the page opens without it, too
}

async function copyOf(path, names) {
  for (const name of names) {
    const file = await kept(path, name);
    if (file?.headers.get(LABEL) === labelOf(path)) return file;
  }
}

/** The browser compares the checksum, so no file of another version can get in. */
async function fetched(path) {
  const file = await fetch(addressOf(path), { integrity: SHELL.files[path], cache: 'no-cache' });
  if (!file.ok) throw new Error(`${path}: status ${file.status}`);
  return file;
}

/** Adds the label, and the content security policy if the host sends none. */
function dressed(path, file) {
  const headers = new Headers(file.headers);
  if (!headers.has('Content-Security-Policy')) headers.set('Content-Security-Policy', policyOf(path));
  headers.set(LABEL, labelOf(path));
  for (const name of ['Content-Encoding', 'Content-Length']) headers.delete(name); // the body is stored decoded
  return new Response(file.body, { headers });
}

// ---- activating

async function takeCharge() {
  const names = await ownCaches();
  const before = await lastInCharge(names);
  const found = await pinsOfOpenTabs(before ?? NAME); // no version before: only sw.js has changed, or a first visit
  pins = Promise.resolve(found);
  if (await keepPins(found) && before) await (await caches.open(before)).delete(addressOf(PINS));
  await dropUnused();
  await dropOldSnapshots();
  await self.clients.claim(); // also the page of a first visit
}

/** Delete the versions that no open tab uses. Their pins stay: a worker that is starting is not among the clients yet. */
async function dropUnused() {
  const { installing, waiting } = self.registration;
  if (installing || waiting) return; // after a host's rollback the waiting version may be an older one: wait
  const names = await ownCaches();
  const older = names.slice(0, names.indexOf(NAME)); // a later one is a version that is being installed
  if (!older.length) return;
  const known = await knownPins();
  const open = await self.clients.matchAll({ type: 'all' });
  const wanted = new Set(open.map(({ id }) => PREFIX + known[id]));
  await Promise.all(older.filter(name => !wanted.has(name)).map(name => caches.delete(name)));
}

let pins = null; // a promise of the active version's pins, once they are read

const knownPins = () => pins ??= pinsOf(NAME);
const pinsOf = async name => await (await kept(PINS, name))?.json() ?? {};

/** Store the pins; resolves to whether there was space. */
async function keepPins(known) {
  const cache = await caches.open(NAME);
  return cache.put(addressOf(PINS), Response.json(known)).then(() => true, () => false);
}

async function lastInCharge(names) {
  for (const name of names.toReversed()) if (name !== NAME && await kept(PINS, name)) return name;
}

/** Returns every tab and worker that the version before controlled, with the version that it came with. */
async function pinsOfOpenTabs(before) {
  const older = await pinsOf(before);
  const open = await self.clients.matchAll({ type: 'all' });
  return Object.fromEntries(open.map(({ id }) => [id, older[id] ?? before.slice(PREFIX.length)]));
}

/** Names of this app's shell caches, oldest first. */
const ownCaches = async () => (await caches.keys()).filter(name => name.startsWith(PREFIX));

/** Delete memory snapshots of other Pyodides, or with other sources (public/boot.mjs stores them). A current cache is left even
    when it is empty: a snapshot may be about to be written into it. */
async function dropOldSnapshots() {
  for (const name of (await caches.keys()).filter(name => name.startsWith('snapshot-'))) {
    const cache = await caches.open(name);
    const current = SHELL.snapshots.caches.includes(name);
    for (const { url } of await cache.keys()) {
      if (url.startsWith(addressOf('snapshot/')) && !(current && url.endsWith(SHELL.snapshots.sources))) await cache.delete(url);
    }
    if (!current && !(await cache.keys()).length) await caches.delete(name);
  }
}

// ---- requests

/** Answer only for this app's own files, whole; the browser handles everything else (ranges, other hosts, models). */
function answer(event) {
  const { request } = event;
  const [url] = request.url.split(/[?#]/);
  if (request.method !== 'GET' || request.headers.has('Range') || !url.startsWith(SCOPE)) return;
  const asked = url.slice(SCOPE.length).replace(/^(index\.html)?$/, INDEX);
  const path = `${asked}.html` in SHELL.files ? `${asked}.html` : asked; // diagnostics: some hosts drop .html
  if (path === CONFIG) event.respondWith(freshElseKept(request));
  else if (path in SHELL.files || path.startsWith('vendor/')) event.respondWith(fromShell(event, path));
}

async function fromShell(event, path) {
  const navigates = event.request.mode === 'navigate';
  const version = navigates ? SHELL.version : await versionFor(event);
  if (navigates) event.waitUntil(dropUnused());
  return await kept(path, PREFIX + version) ?? fetch(event.request);
}

/** Returns the version that this client came with. A worker that an older tab starts has the version of its tab. */
async function versionFor({ clientId, resultingClientId }) {
  const known = await knownPins();
  const version = known[clientId];
  if (version && resultingClientId && !known[resultingClientId]) {
    known[resultingClientId] = version;
    await keepPins(known);
  }
  return version ?? SHELL.version;
}

async function freshElseKept(request) {
  try {
    const file = await fetch(request, { signal: AbortSignal.timeout(CONFIG_PATIENCE_MS) });
    if (!file.ok) throw new Error(`status ${file.status}`);
    const cache = await caches.open(NAME);
    await cache.put(addressOf(CONFIG), file.clone()).catch(() => {}); // the store is full: an older copy stays
    return file;
  } catch {
    return await kept(CONFIG, NAME) ?? await caches.match(addressOf(CONFIG), { ignoreVary: true }) ?? Response.error();
  }
}

// The service worker: keeps the shell (the page, Pyodide, wheels, the engine with its shaders) of one version, so that
// the page opens without a network. Weights never pass here: py_engine/weights keeps those.
//
// The server puts a line in front of this file, made from what it serves (devtools/site.py, Site.shell):
//   const SHELL = {version, files: {path: integrity}, policies: {document, other}, snapshots: {caches, sources}};
//
// A new version is fetched whole beside the old one and waits until a user consents (public/updates.mjs). Then it
// answers pages opened from that moment on; tabs that are open go on with the files of the version they came with.

const SCOPE = self.registration.scope;
const PREFIX = `shell-${new URL(SCOPE).pathname} `; // another copy, in another folder of the origin, has its own
const NAME = PREFIX + SHELL.version;
const INDEX = './';
const CONFIG = 'config.json';  // what the server offers: fresh if it can be had
const PINS = 'pins.json';      // {client: version} of the tabs and workers that came with an older version; in the cache
                               // of the version that is in charge
const CONFIG_PATIENCE_MS = 3000;

const EVENTS = {
  install: event => event.waitUntil(precache()),
  activate: event => event.waitUntil(takeCharge()),
  message: event => { if (event.data?.op === 'take-charge') self.skipWaiting(); },
  fetch: answer,
};
for (const [type, act] of Object.entries(EVENTS)) self.addEventListener(type, act);

const LABEL = 'X-Shell-File';  // header of a kept file: its sum, and the policy it is to have

const policyOf = path => SHELL.policies[path === INDEX || path.endsWith('.html') ? 'document' : 'other'];
const labelOf = path => `${SHELL.files[path]} ${policyOf(path)}`;
const addressOf = path => new URL(path, SCOPE).href;
const kept = (path, name) => caches.match(addressOf(path), { cacheName: name, ignoreVary: true });

// ---- a version comes

/** Fetch every file; those that an older version has as they are to be are copied. Fails as a whole; what has come by
    then is there for the next try, unless there was no room for all. */
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
  await freshElseKept(addressOf(CONFIG)); // what the first visit saw; without it the page still opens
}

async function copyOf(path, names) {
  for (const name of names) {
    const file = await kept(path, name);
    if (file?.headers.get(LABEL) === labelOf(path)) return file;
  }
}

/** The browser compares the sum, so no file of another version can come in between. */
async function fetched(path) {
  const file = await fetch(addressOf(path), { integrity: SHELL.files[path], cache: 'no-cache' });
  if (!file.ok) throw new Error(`${path}: status ${file.status}`);
  return file;
}

/** With a label, and with the content security policy where the host sends none. */
function dressed(path, file) {
  const headers = new Headers(file.headers);
  if (!headers.has('Content-Security-Policy')) headers.set('Content-Security-Policy', policyOf(path));
  headers.set(LABEL, labelOf(path));
  for (const name of ['Content-Encoding', 'Content-Length']) headers.delete(name); // the body lies here decoded
  return new Response(file.body, { headers });
}

// ---- it takes charge

async function takeCharge() {
  const names = await ownCaches();
  const before = await lastInCharge(names);
  const found = await pinsOfOpenTabs(before ?? NAME); // a newer sw.js alone makes no new version
  pins = Promise.resolve(found);
  if (await keepPins(found) && before) await (await caches.open(before)).delete(addressOf(PINS));
  await dropUnused();
  await dropOldSnapshots();
  await self.clients.claim(); // a first visit's page too
}

/** Delete the versions that no open tab came with. Their pins stay: a worker that starts is not among the clients yet. */
async function dropUnused() {
  const { installing, waiting } = self.registration;
  if (installing || waiting) return; // a host that goes back to an older version has it among these: next time
  const names = await ownCaches();
  const older = names.slice(0, names.indexOf(NAME)); // one that was made later is a version on its way
  if (!older.length) return;
  const known = await knownPins();
  const open = await self.clients.matchAll({ type: 'all' });
  const wanted = new Set(open.map(({ id }) => PREFIX + known[id]));
  await Promise.all(older.filter(name => !wanted.has(name)).map(name => caches.delete(name)));
}

let pins = null; // a promise of this version's, from when they were read

const knownPins = () => pins ??= pinsOf(NAME);
const pinsOf = async name => await (await kept(PINS, name))?.json() ?? {};

/** Whether there was room. */
async function keepPins(known) {
  const cache = await caches.open(NAME);
  return cache.put(addressOf(PINS), Response.json(known)).then(() => true, () => false);
}

async function lastInCharge(names) {
  for (const name of names.toReversed()) if (name !== NAME && await kept(PINS, name)) return name;
}

/** Every tab and worker that the version before had in charge, with the version that it came with. */
async function pinsOfOpenTabs(before) {
  const older = await pinsOf(before);
  const open = await self.clients.matchAll({ type: 'all' });
  return Object.fromEntries(open.map(({ id }) => [id, older[id] ?? before.slice(PREFIX.length)]));
}

/** Names of this app's shell caches, oldest first. */
const ownCaches = async () => (await caches.keys()).filter(name => name.startsWith(PREFIX));

/** Memory snapshots of other Pyodides, or with other sources in them (public/boot.mjs keeps them). A current cache is
    left even when it is empty: a snapshot may be on its way into it. */
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

/** Only this app's own files, whole; everything else (ranges, other hosts, models) is the browser's business. */
function answer(event) {
  const { request } = event;
  const [url] = request.url.split(/[?#]/);
  if (request.method !== 'GET' || request.headers.has('Range') || !url.startsWith(SCOPE)) return;
  const asked = url.slice(SCOPE.length).replace(/^(index\.html)?$/, INDEX);
  const path = `${asked}.html` in SHELL.files ? `${asked}.html` : asked; // diagnostics, as some hosts call it
  if (path === CONFIG) event.respondWith(freshElseKept(request));
  else if (path in SHELL.files || path.startsWith('vendor/')) event.respondWith(fromShell(event, path));
}

async function fromShell(event, path) {
  const navigates = event.request.mode === 'navigate';
  const version = navigates ? SHELL.version : await versionFor(event);
  if (navigates) event.waitUntil(dropUnused());
  return await kept(path, PREFIX + version) ?? fetch(event.request);
}

/** The version that this client came with. A worker that an older tab starts is as old as its tab. */
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
    await cache.put(addressOf(CONFIG), file.clone()).catch(() => {}); // no room: then an older one stays
    return file;
  } catch {
    return await kept(CONFIG, NAME) ?? await caches.match(addressOf(CONFIG), { ignoreVary: true }) ?? Response.error();
  }
}

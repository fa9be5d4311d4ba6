// The service worker: keeps the shell (the page, Pyodide, wheels, the engine with its shaders) of one version, so that
// the page opens without a network. Weights never pass here: py_engine/weights keeps those.
//
// The server puts a line in front of this file, made from what it serves (devtools/site.py, Site.shell):
//   const SHELL = {version, files: {path: integrity}, policies: {document, other}, snapshots: {caches, sources}};
//
// A new version is fetched whole beside the old one and waits until a person consents (public/updates.mjs). Then it
// answers pages opened from that moment on; tabs that are open go on with the files of the version they came with.

const SCOPE = self.registration.scope;
const PREFIX = 'shell-';
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

const addressOf = path => new URL(path, SCOPE).href;
const kept = (path, name) => caches.match(addressOf(path), { cacheName: name, ignoreVary: true });

// ---- a version comes

/** Fetch every file; those that an older version has, by the same sum, are copied. Fails as a whole. */
async function precache() {
  const cache = await caches.open(NAME);
  const names = (await ownCaches()).reverse();
  const keep = async path => {
    const integrity = SHELL.files[path];
    const file = await copyOf(path, integrity, names) ?? await fetched(path, integrity);
    await cache.put(addressOf(path), dressed(file, path, integrity));
  };
  await keep(INDEX); // first, since it tells whose cache this is
  await Promise.all(Object.keys(SHELL.files).map(path => path === INDEX || keep(path)));
  await freshElseKept(addressOf(CONFIG)); // what the first visit saw; without it the page still opens
}

async function copyOf(path, integrity, names) {
  for (const name of names) {
    const file = await kept(path, name);
    if (file?.headers.get('X-Integrity') === integrity) return file;
  }
}

/** The browser compares the sum, so no file of another version can come in between. */
async function fetched(path, integrity) {
  const file = await fetch(addressOf(path), { integrity, cache: 'no-cache' });
  if (!file.ok) throw new Error(`${path}: status ${file.status}`);
  return file;
}

/** With its sum, and with the content security policy where the host sends none. */
function dressed(file, path, integrity) {
  const headers = new Headers(file.headers);
  const policy = path === INDEX || path.endsWith('.html') ? SHELL.policies.document : SHELL.policies.other;
  if (!headers.has('Content-Security-Policy')) headers.set('Content-Security-Policy', policy);
  headers.set('X-Integrity', integrity);
  for (const name of ['Content-Encoding', 'Content-Length']) headers.delete(name); // the body lies here decoded
  return new Response(file.body, { headers });
}

// ---- it takes charge

async function takeCharge() {
  const names = await ownCaches();
  const before = await lastInCharge(names);
  const pins = before ? await pinsOfOpenTabs(before) : {};
  await (await caches.open(NAME)).put(addressOf(PINS), Response.json(pins));
  if (before) await (await caches.open(before)).delete(addressOf(PINS));
  const wanted = new Set(Object.values(pins).map(version => PREFIX + version));
  const older = names.slice(0, names.indexOf(NAME)); // one that was made later is a version on its way
  await Promise.all(older.filter(name => !wanted.has(name)).map(name => caches.delete(name)));
  await dropOldSnapshots();
  await self.clients.claim(); // a first visit's page too
}

async function lastInCharge(names) {
  for (const name of names.toReversed()) if (name !== NAME && await kept(PINS, name)) return name;
}

/** Every tab and worker that the version before had in charge, with the version that it came with. */
async function pinsOfOpenTabs(before) {
  const older = await (await kept(PINS, before)).json();
  const open = await self.clients.matchAll({ type: 'all' });
  return Object.fromEntries(open.map(({ id }) => [id, older[id] ?? before.slice(PREFIX.length)]));
}

/** Names of this app's shell caches, oldest first. Another copy of it, in another folder of the origin, has its own. */
async function ownCaches() {
  const names = (await caches.keys()).filter(name => name.startsWith(PREFIX));
  const own = await Promise.all(names.map(name => name === NAME || kept(INDEX, name)));
  return names.filter((_, i) => own[i]);
}

/** Memory snapshots of other Pyodides, or with other sources in them (public/boot.mjs keeps them). A current cache is
    left even when it is empty: a snapshot may be on its way into it. */
async function dropOldSnapshots() {
  for (const name of (await caches.keys()).filter(name => name.startsWith('snapshot-'))) {
    const cache = await caches.open(name);
    const current = SHELL.snapshots.caches.includes(name);
    for (const { url } of await cache.keys()) {
      if (url.startsWith(SCOPE) && !(current && url.endsWith(SHELL.snapshots.sources))) await cache.delete(url);
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
  const path = url.slice(SCOPE.length).replace(/^(index\.html)?$/, INDEX);
  if (path === CONFIG) event.respondWith(freshElseKept(request));
  else if (path in SHELL.files || path.startsWith('vendor/')) event.respondWith(fromShell(event, path));
}

async function fromShell(event, path) {
  const version = event.request.mode === 'navigate' ? SHELL.version : await versionFor(event);
  return await kept(path, PREFIX + version) ?? fetch(event.request);
}

let pins = null;

/** The version that this client came with. A worker that an older tab starts is as old as its tab. */
async function versionFor({ clientId, resultingClientId }) {
  pins ??= kept(PINS, NAME).then(file => file?.json() ?? {});
  const known = await pins;
  const version = known[clientId];
  if (version && resultingClientId && !known[resultingClientId]) {
    known[resultingClientId] = version;
    await (await caches.open(NAME)).put(addressOf(PINS), Response.json(known));
  }
  return version ?? SHELL.version;
}

async function freshElseKept(request) {
  const cache = await caches.open(NAME);
  try {
    const file = await fetch(request, { signal: AbortSignal.timeout(CONFIG_PATIENCE_MS) });
    if (!file.ok) throw new Error(`status ${file.status}`);
    await cache.put(addressOf(CONFIG), file.clone());
    return file;
  } catch {
    return await caches.match(addressOf(CONFIG), { ignoreVary: true }) ?? Response.error();
  }
}

// Registers the service worker (sw.js) and reports when a newer version of the page waits for consent. No function throws,
// because app/updates.py calls from MicroPython.

const CHECK_MS = 3600_000; // a tab that is shown again checks for a new version, at most this often

let registration = null;
let consented = false;

/** Keep the page for use without a network. `found()` is called when a newer version waits, or when another tab has
    switched to it. */
export async function watch(found) {
  const container = navigator.serviceWorker;
  if (!container || registration) return;
  let controlled = container.controller;
  container.addEventListener('controllerchange', () => {
    if (consented) location.reload();
    else if (controlled) found(); // another tab has consented; this one stays with its version
    controlled = container.controller;
  });
  try {
    registration = await container.register('sw.js', { updateViaCache: 'none' });
  } catch (error) { // storage is switched off, or the server does not answer
    console.info('the page is not kept for use without a network:', error.message);
  }
  if (!registration) return;
  const look = () => { if (registration.waiting && registration.active) found(); };
  const follow = () => registration.installing?.addEventListener('statechange', look);
  registration.addEventListener('updatefound', follow);
  follow(); // an update may be running already
  look();
  let checked = performance.now();
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState !== 'visible' || performance.now() - checked < CHECK_MS) return;
    checked = performance.now();
    registration.update().catch(() => {}); // no network now
  });
}

/** The user consents: this tab reloads with the newest version. */
export function accept() {
  consented = true;
  if (registration?.waiting) registration.waiting.postMessage({ op: 'take-charge' });
  else location.reload();
}

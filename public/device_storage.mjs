// Storage helpers of the page: how much may be stored on this device, whether the browser may delete it, and how the page is
// installed. For any script of the page (import { getStorageStatus } from './device_storage.mjs'), for app/storage.py and, in
// the worker, for py_engine/host/device_storage_browser.py. MB are 10^6 bytes. Whatever a browser lacks or refuses (no
// navigator.storage, an insecure address, a private window), no function throws, except canCacheModel for an invalid size.
//
// A worker can read neither screen nor display mode; it finds the page's answers in jerboa.env (app/client.py). Browsers only
// estimate: a write may still fail, and loaders handle that error.

const MB = 1e6;
const PATIENCE_MS = 2000; // for an estimate: some take long over a large store
const INSTALLED = ['standalone', 'minimal-ui', 'window-controls-overlay']; // not fullscreen: a tab may be in it, too
const ON_A_PAGE = typeof document !== 'undefined';
const told = name => Boolean(globalThis.jerboa?.env.get(name));
const agent = navigator.userAgent;

/** Tells whether this is an iPhone, iPod or iPad, also one that asks for desktop pages: it says Macintosh, but has a touch
    screen, and WebKit's name without that of a browser with another engine. */
export function isIOS() {
  if (/iPhone|iPad|iPod/.test(agent)) return true;
  if (!ON_A_PAGE) return told('JERBOA_IOS'); // workers have no maxTouchPoints
  return /Macintosh.*AppleWebKit/.test(agent) && !/Chrome|Chromium|Firefox/.test(agent) && navigator.maxTouchPoints > 0;
}

/** Tells whether the page runs as an installed app, from the Home Screen or a desktop's launcher. */
export function isStandalone() {
  if (!ON_A_PAGE) return told('JERBOA_INSTALLED');
  return navigator.standalone === true || INSTALLED.some(mode => matchMedia(`(display-mode: ${mode})`).matches);
}

/** Tells whether this is a phone or tablet, by its features. */
export function isHandheld() {
  if (isIOS() || navigator.userAgentData?.mobile === true) return true; // an iPad with a trackpad has a fine pointer
  if (!ON_A_PAGE) return told('JERBOA_HANDHELD');
  return navigator.maxTouchPoints > 0 && matchMedia('(pointer: coarse)').matches;
}

const asked = async name => { // of navigator.storage: absent at insecure addresses and in some browsers
  try {
    return await navigator.storage[name]();
  } catch {
    return undefined;
  }
};
const soon = answer => Promise.race([answer, new Promise(done => setTimeout(done, PATIENCE_MS))]);
const isSize = number => typeof number === 'number' && Number.isFinite(number) && number >= 0;
const inMB = bytes => isSize(bytes) ? Math.round(bytes / MB) : null;

/** Returns {quotaMB, usageMB, availableMB, persisted, installed, ios}; numbers that the browser does not give are null. */
export async function getStorageStatus() {
  const [estimate, persisted] = await Promise.all([soon(asked('estimate')), soon(asked('persisted'))]);
  const { quota, usage } = estimate ?? {};
  return {
    quotaMB: inMB(quota),
    usageMB: inMB(usage),
    availableMB: isSize(quota) ? inMB(Math.max(0, quota - (isSize(usage) ? usage : 0))) : null,
    persisted: persisted === true,
    installed: isStandalone(),
    ios: isIOS(),
  };
}

/** Returns {fits, availableMB, recommendInstall} for a model of sizeMB. Unknown space counts as enough. */
export async function canCacheModel(sizeMB) {
  if (!isSize(sizeMB)) {
    const got = typeof sizeMB === 'string' ? JSON.stringify(sizeMB) : String(sizeMB);
    throw new RangeError(`canCacheModel: ${got} is no size. Give the model's megabytes (10^6 bytes) as a number from 0 up.`);
  }
  const { availableMB, installed, ios } = await getStorageStatus();
  const fits = availableMB === null || sizeMB <= availableMB;
  return { fits, availableMB, recommendInstall: !installed && (ios || isHandheld() || !fits) };
}

/** Ask the browser never to delete this page's data by itself; returns whether it agreed. Some browsers ask the user, and this
    waits for the answer. A worker can only read the current state. */
export async function requestPersistentStorage() {
  return await soon(asked('persisted')) === true || await asked('persist') === true;
}

// ---- installing

let offer = null; // the browser's install prompt, kept until the user wants it

if (ON_A_PAGE) {
  addEventListener('beforeinstallprompt', event => {
    if (isIOS()) return; // no iOS browser has it; this is another browser that imitates iOS
    event.preventDefault();
    offer = event;
  });
  addEventListener('appinstalled', () => { offer = null; });
}

/** Returns {installed, manual, steps}: manual is false where promptInstall() opens the browser's install prompt; without steps,
    this browser cannot install pages. */
export function getInstallGuidance() {
  if (isStandalone()) return { installed: true, manual: false, steps: [] };
  if (offer) return { installed: false, manual: false, steps: ['Choose Install.'] };
  return { installed: false, manual: true, steps: manualSteps() };
}

function manualSteps() {
  if (isIOS()) {
    return [...shareMenu(), 'Choose "Add to Home Screen".', 'Open Jerboa from the Home Screen.'];
  }
  if (/Android/.test(agent)) {
    const first = /; wv\)/.test(agent) ? [`Open this page in Chrome or Firefox: ${OUTSIDE}`] : [];
    return [...first, 'Open the browser\'s menu.', 'Choose "Install app" or "Add to Home screen".', 'Open Jerboa from there.'];
  }
  if (/Macintosh/.test(agent) && /Safari/.test(agent) && !/Chrome|Chromium/.test(agent)) {
    return ['Open the File menu.', 'Choose "Add to Dock".'];
  }
  if (/Chrome|Chromium/.test(agent)) return ['Click the install symbol at the end of the address bar.'];
  return []; // this browser cannot install pages
}

const OUTSIDE = 'this is the inside of another app, whose menu can do that.';

/** How to install in the browsers of iOS: all use WebKit, and add their own name. */
function shareMenu() {
  const square = 'Open the Share menu: the square with an arrow up';
  if (/CriOS/.test(agent)) return [`${square}, in the address bar.`];
  if (/FxiOS|EdgiOS|OPiOS|OPT\//.test(agent)) return ['Open the browser\'s menu.', 'Choose "Share".'];
  const inAnApp = !/Safari\//.test(agent) || /GSA\/|FBA[NV]|Instagram|Line\/|MicroMessenger/.test(agent);
  if (inAnApp) return [`Open this page in Safari: ${OUTSIDE}`, `${square}.`];
  return [`${square}, on some iPhones behind the three dots.`];
}

/** Open the browser's install prompt; returns whether the user accepted. False if there is no prompt. */
export async function promptInstall() {
  const event = offer;
  offer = null; // it can be shown once
  if (!event) return false;
  try {
    await event.prompt();
    return (await event.userChoice).outcome === 'accepted';
  } catch {
    return false;
  }
}

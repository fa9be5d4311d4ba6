// Storage helpers of the page: how much may be kept on this device, whether the browser may throw it away, and how the
// page is installed. For any script of the page (import { getStorageStatus } from './device_storage.mjs'), for app/storage.py
// and, in the worker, for py_engine/host/device_storage_browser.py. Nothing throws; MB are 10^6 bytes.
//
// A worker sees neither screen nor display mode: there the page's answers stand in jerboa.env (app/client.py).
// What browsers estimate is a hint, not a promise: loaders write and handle the error.

const MB = 1e6;
const INSTALLED = ['standalone', 'fullscreen', 'minimal-ui', 'window-controls-overlay'];
const ON_A_PAGE = typeof document !== 'undefined';
const told = name => Boolean(globalThis.jerboa?.env.get(name));
const agent = navigator.userAgent;

/** An iPhone, iPod or iPad, also one that asks for desktop pages: then it says Macintosh, but has a touch screen. */
export function isIOS() {
  if (!ON_A_PAGE) return told('JERBOA_IOS');
  return /iPhone|iPad|iPod/.test(agent) || (/Macintosh/.test(agent) && navigator.maxTouchPoints > 0);
}

/** True when the page runs as an app of its own, from the Home Screen or a desktop's launcher. */
export function isStandalone() {
  if (!ON_A_PAGE) return told('JERBOA_INSTALLED');
  return navigator.standalone === true || INSTALLED.some(mode => matchMedia(`(display-mode: ${mode})`).matches);
}

/** A phone or tablet, found by what it has. */
export function isHandheld() {
  if (!ON_A_PAGE) return told('JERBOA_HANDHELD');
  return isIOS() || navigator.userAgentData?.mobile === true // an iPad with a trackpad has a fine pointer
    || (navigator.maxTouchPoints > 0 && matchMedia('(pointer: coarse)').matches);
}

const asked = async (name, otherwise) => { // of navigator.storage: absent at insecure addresses and in some browsers
  try {
    return await navigator.storage[name]();
  } catch {
    return otherwise;
  }
};

/** {quotaMB, usageMB, availableMB, persisted, installed, ios}; the numbers are null where the browser gives none. */
export async function getStorageStatus() {
  const { quota, usage } = await asked('estimate', {});
  const inMB = bytes => bytes === undefined ? null : Math.round(bytes / MB);
  return {
    quotaMB: inMB(quota),
    usageMB: inMB(usage),
    availableMB: quota === undefined ? null : inMB(Math.max(0, quota - (usage ?? 0))),
    persisted: await asked('persisted', false),
    installed: isStandalone(),
    ios: isIOS(),
  };
}

/** {fits, availableMB, recommendInstall} for a model of sizeMB. Unknown space counts as enough. */
export async function canCacheModel(sizeMB) {
  const { availableMB, installed, ios } = await getStorageStatus();
  const fits = availableMB === null || sizeMB <= availableMB;
  return { fits, availableMB, recommendInstall: !installed && (ios || isHandheld() || !fits) };
}

/** Ask the browser never to throw away by itself what is kept here; whether it agreed. A worker can only look. */
export async function requestPersistentStorage() {
  return await asked('persisted', false) || await asked('persist', false);
}

// ---- installing

let offer = null; // the browser's own prompt, kept for the moment when the person wants it

if (ON_A_PAGE) {
  addEventListener('beforeinstallprompt', event => {
    event.preventDefault();
    offer = event;
  });
  addEventListener('appinstalled', () => { offer = null; });
}

/** {installed, manual, steps}: manual is false where promptInstall() opens the browser's own prompt. */
export function getInstallGuidance() {
  if (isStandalone()) return { installed: true, manual: false, steps: [] };
  if (offer) return { installed: false, manual: false, steps: ['Choose Install.'] };
  return { installed: false, manual: true, steps: manualSteps() };
}

function manualSteps() {
  if (isIOS()) {
    return [
      'Open the Share menu: the square with an arrow up, on some iPhones behind the three dots.',
      'Choose "Add to Home Screen".',
      'Open Jerboa from the Home Screen.',
    ];
  }
  if (/Android/.test(agent)) {
    return ['Open the browser\'s menu.', 'Choose "Install app" or "Add to Home screen".', 'Open Jerboa from there.'];
  }
  if (/Macintosh/.test(agent) && /Safari/.test(agent) && !/Chrome|Chromium/.test(agent)) {
    return ['Open the File menu.', 'Choose "Add to Dock".'];
  }
  if (/Chrome|Chromium/.test(agent)) return ['Click the install symbol at the end of the address bar.'];
  return []; // this browser installs no pages
}

/** Open the browser's own prompt; whether the person accepted. False where there is none. */
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

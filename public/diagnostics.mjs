// The page /diagnostics: facts about this device, and tests of its dispatches (dispatch_tests of py_engine/diagnostics) through
// the engine's worker. Rows are shown, posted to the server if it accepts them (./dev run), and stored in IndexedDB. A row that
// announces a test is on the disk before the worker starts it, so that after a crash the next visit has all rows. They can be
// saved at any time, during a run and after it.
//
// ?tests=sweep,forward  only these    ?most=2  at most 2 points of each test    ?run  start at once    ?runtime=py27

import { KINDS, openStore } from './blobs.mjs';
import { getStorageStatus, isIOS } from './device_storage.mjs';

const KEPT = 'rows.jsonl'; // rows of the last run, a JSON object a line
const kept = openStore('diagnostics', true, [KINDS.Records]);
const CALIBRATION = 'jerboa.proven-groups'; // submit settings that work on this device
const find = id => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const boxes = [...document.querySelectorAll('#form input')];

let worker = null;
let lines = [];
let taken = true; // whether the server accepts rows
let filing = Promise.resolve(); // resolves when all rows so far are stored
let bytes = 0; // bytes of rows in the store
let limits = null;
let system = ''; // the system and its version
let run = ''; // name of the current run

// ---- rows

async function keep(line) {
  const store = await kept;
  const data = new TextEncoder().encode(`${line}\n`);
  await store.write(KEPT, bytes, data);
  await store.flush(KEPT);
  bytes += data.length;
}

/** Store and post a row, with its origin. Resolves when the row is safe from a crash, or cannot be stored. */
function file(row) {
  const whole = { ...row, run, at: new Date().toISOString(), page: location.href, agent: navigator.userAgent, system, limits };
  const line = JSON.stringify(whole);
  lines.push(line);
  find('save').disabled = false;
  filing = filing.then(() => keep(line)).catch(error => console.info(`a row is not kept: ${error}`));
  post(line);
  return filing;
}

function post(line) {
  if (!taken) return;
  fetch('diagnostics/rows', { method: 'POST', body: line, keepalive: true })
    .then(answer => { taken = answer.ok; }, () => { /* no network for a moment */ });
}

const isDefault = { bindings: 4, shared: false };

function settingText({ mode, ...setting }) {
  const parts = Object.entries(setting).filter(([key, value]) => isDefault[key] !== value).map(([key, value]) => `${key} ${value}`);
  return [...parts, mode].filter(Boolean).join(', ');
}

function cell(row, text, kind = '') {
  const td = document.createElement('td');
  td.textContent = text;
  if (kind) td.className = kind;
  row.append(td);
}

function show({ test, setting, ok, detail, ms }) {
  const row = document.createElement('tr');
  cell(row, test);
  cell(row, settingText(setting));
  if (ok) cell(row, 'right', 'right');
  else cell(row, ok === null ? `not tried: ${detail}` : `wrong: ${detail}`, ok === null ? 'quiet' : 'wrong');
  cell(row, ms.toFixed(1));
  find('rows').append(row);
}

// ---- a run

function finish(text) {
  worker?.terminate();
  worker = null;
  run = '';
  find('run').disabled = false;
  find('stop').hidden = true;
  find('state').textContent = text;
}

function heard({ data }) {
  if (data.status === 'row') {
    const { row } = data;
    if (row.phase === 'device') limits = row.limits;
    const filed = file(row);
    if (row.phase === 'begin') {
      find('state').textContent = `${row.test}: ${settingText(row.setting)}`;
      filed.then(() => worker?.postMessage({ type: 'filed', id: run }));
    }
    if (row.phase === 'end') show(row);
  } else if (data.status === 'result') {
    file({ phase: 'done', ...data.value });
    const { points, wrong, skipped } = data.value;
    finish(`Done: ${points} points, ${wrong} wrong, ${skipped} not tried.`);
  } else if (data.status === 'error') {
    file({ phase: 'failed', error: data.error });
    finish(`It ended: ${data.error}`);
  }
}

async function start() {
  find('run').disabled = true;
  find('stop').hidden = false;
  find('broken').hidden = true;
  find('rows').replaceChildren();
  find('state').textContent = 'Starting Python';
  lines = [];
  const mine = run = crypto.randomUUID();
  filing = filing.then(async () => {
    bytes = 0;
    await (await kept).remove(KEPT);
  }).catch(error => console.info(`the rows before are still kept: ${error}`));
  const known = await facts();
  if (run !== mine) return; // stopped meanwhile
  file({ phase: 'page', ...known });
  worker = new Worker('worker.mjs', { type: 'module', name: asked.get('runtime') ?? '' });
  worker.onmessage = heard;
  worker.onerror = event => heard({ data: { status: 'error', error: event.message || 'the engine did not start' } });
  const tests = boxes.filter(box => box.checked).map(box => box.name);
  worker.postMessage({ type: 'diagnose', id: run, tests, most: Number(asked.get('most')) || null });
}

function stop() {
  file({ phase: 'stopped' });
  finish('Stopped.');
}

function save() {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([`${lines.join('\n')}\n`], { type: 'application/x-ndjson' }));
  link.download = `jerboa-diagnostics-${new Date().toISOString().replaceAll(':', '-').slice(0, 19)}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ---- facts

const LIMITS = ['maxBufferSize', 'maxStorageBufferBindingSize', 'maxComputeWorkgroupStorageSize', 'maxComputeInvocationsPerWorkgroup',
  'maxStorageBuffersPerShaderStage', 'maxComputeWorkgroupsPerDimension'];

const limitsOf = ({ limits: all }) => Object.fromEntries(LIMITS.map(name => [name, all[name]]));

/** Returns an adapter, null if there is none after two seconds: a fresh browser may answer null at first. */
async function adapterOf() {
  for (let i = 0; navigator.gpu && i < 10; i++) {
    const adapter = await navigator.gpu.requestAdapter().catch(() => null);
    if (adapter) return adapter;
    await new Promise(done => setTimeout(done, 200));
  }
  return null;
}

function calibration() {
  try {
    return JSON.parse(localStorage.getItem(CALIBRATION));
  } catch {
    return null;
  }
}

/** Returns the system and its version: from the browser if it tells them (Chromium), else from the user agent. */
async function systemOf(agent) {
  const hints = await navigator.userAgentData?.getHighEntropyValues(['platformVersion', 'model']).catch(() => null);
  if (hints) return [hints.platform, hints.platformVersion, hints.model].filter(Boolean).join(' ');
  const [, version] = / OS (\d[\d_]*) like Mac/.exec(agent) ?? [];
  if (version) return `iOS ${version.replaceAll('_', '.')}`;
  // An iPad that asks for desktop pages reports a Mac version that never changes; its Safari has the system's version.
  const [, safari] = /Version\/([\d.]+)/.exec(agent) ?? [];
  if (isIOS()) return `iPadOS ${safari ?? ''}`.trim();
  const [named] = /(Mac OS X|Android|Windows NT) [\d._]+/.exec(agent) ?? [];
  return (named ?? navigator.platform).replaceAll('_', '.');
}

/** Collects what the page knows: adapter, storage, calibration of submits, the system. */
async function facts() {
  const adapter = await adapterOf();
  const info = adapter?.info;
  system = await systemOf(navigator.userAgent);
  limits ??= adapter && limitsOf(adapter);
  return {
    adapter: adapter && { vendor: info?.vendor, architecture: info?.architecture, device: info?.device, description: info?.description,
      features: [...adapter.features].sort(), limits: limitsOf(adapter) },
    storage: await getStorageStatus(),
    calibration: calibration(),
  };
}

function fact(name, text) {
  const [dt, dd] = ['dt', 'dd'].map(tag => document.createElement(tag));
  dt.textContent = name;
  dd.textContent = text || '-';
  find('facts').append(dt, dd);
}

async function showFacts() {
  const { adapter, storage, calibration: proven } = await facts();
  fact('Browser', navigator.userAgent);
  fact('System', system);
  if (adapter) {
    fact('GPU', [adapter.vendor, adapter.architecture, adapter.device, adapter.description].filter(Boolean).join(', '));
    fact('Features', adapter.features.join(', '));
    for (const [name, value] of Object.entries(adapter.limits)) fact(name, value.toLocaleString('en'));
  } else {
    fact('GPU', navigator.gpu ? 'no adapter answers: update the browser or the graphics driver' : 'this browser has no WebGPU');
    find('run').disabled = true;
  }
  fact('Storage', `${storage.usageMB ?? '?'} of ${storage.quotaMB ?? '?'} MB used; kept for good: ${storage.persisted ? 'yes' : 'no'}; `
    + `installed: ${storage.installed ? 'yes' : 'no'}`);
  fact('Submits', proven ? JSON.stringify(proven) : 'nothing was calibrated on this device');
  return adapter !== null;
}

/** Shows the rows of an earlier run that was cut off. */
async function recall() {
  const store = await kept;
  const size = await store.size(KEPT).catch(() => null);
  if (!size) return;
  lines = new TextDecoder().decode(await store.read(KEPT, 0, size)).split('\n').slice(0, -1); // a line without an end was cut off
  if (!lines.length) return;
  find('save').disabled = false;
  const last = JSON.parse(lines.at(-1));
  if (last.phase !== 'begin') return;
  find('broken').textContent = `The last run ended while it tried ${last.test} (${settingText(last.setting)}): the page was closed or `
    + 'broke down there. Save its rows before you run again.';
  find('broken').hidden = false;
}

find('run').onclick = start;
find('stop').onclick = stop;
find('save').onclick = save;
const only = asked.get('tests')?.split(',');
if (only) for (const box of boxes) box.checked = only.includes(box.name);
await recall().catch(error => console.info(`the rows of the last run cannot be read: ${error}`));
if (await showFacts() && asked.has('run')) start();

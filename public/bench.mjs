// Sends one `bench` message to the engine's worker, and its answers to the server (devtools/browser_bench.py).
// The address's fragment holds JSON: {runtime, env, message}; message as in py_engine/serve/protocol.py, class Bench.

const { runtime, env, message } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const log = document.querySelector('#log');
const post = (path, data) => fetch(path, { method: 'POST', body: JSON.stringify(data) });

const worker = new Worker('worker.mjs', { type: 'module', name: runtime });
worker.onerror = event => post('bench/message', { status: 'error', id: null, error_type: 'Error', error: event.message });
worker.onmessage = ({ data }) => {
  log.textContent += `${JSON.stringify(data)}\n`;
  if (data.status !== 'progress') post('bench/message', data);
};
worker.postMessage({ type: 'env', id: 'env', values: env });
worker.postMessage({ ...message, type: 'bench', id: 'bench' });

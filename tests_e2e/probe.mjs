// A worker for tests only. It boots as the engine's worker does, then calls functions of probe.py by name.
import { boot, prepareChat } from './boot.mjs';

const FOLDER = '/home/pyodide/tests_e2e';
const FILES = ['probe.py', 'probe_bytes.py', 'probe_gpu.py', 'probe_models.py', 'probe_pictures.py', 'probe_store.py'];

const answered = (async () => {
  const { py, snapshot } = await boot(self.name || 'py314', () => {});
  py.FS.mkdirTree(FOLDER);
  for (const file of FILES) {
    const source = await (await fetch(`./${file}`)).text();
    py.FS.writeFile(`${FOLDER}/${file}`, source);
  }
  return { probe: py.pyimport('tests_e2e.probe'), py, snapshot };
})();

self.onmessage = async ({ data: { id, name, args } }) => {
  try {
    const { probe, py } = await answered;
    if (name === 'eval_is_refused') return self.postMessage({ id, value: evalIsRefused() });
    if (name === 'prepare_chat') await prepareChat(py);
    const value = JSON.parse(await probe.call(name, JSON.stringify(args)));
    self.postMessage({ id, value });
  } catch (error) {
    self.postMessage({ id, error: String(error) });
  }
};

function evalIsRefused() {
  try {
    return (0, eval)('1') !== 1; // oxlint-disable-line no-eval
  } catch (error) {
    return error instanceof EvalError;
  }
}

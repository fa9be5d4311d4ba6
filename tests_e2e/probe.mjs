// A worker for tests only: the engine's own boot, then calls of functions of probe.py by name.
import { boot, prepareChat } from './boot.mjs';

const answered = (async () => {
  const { py, snapshot } = await boot(self.name || 'py314', () => {});
  const source = await (await fetch('./probe.py')).text();
  py.FS.writeFile('/home/pyodide/probe.py', source);
  return { probe: py.pyimport('probe'), py, snapshot };
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

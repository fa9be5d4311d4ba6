"""test_long_run.py appends this to app/worker.py. globalThis.pythonHeap() collects garbage, then gives the number of
objects that the garbage collector tracks, and the size of the whole WebAssembly memory in bytes.
"""

import gc

import js
import pyodide_js
from pyodide.ffi import create_proxy, to_js


def python_heap() -> object:
    gc.collect()
    return to_js([len(gc.get_objects()), pyodide_js._module.HEAPU8.length])


js.pythonHeap = create_proxy(python_heap)

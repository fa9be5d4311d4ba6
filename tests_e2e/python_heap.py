"""Laid behind app/worker.py by test_long_run.py: globalThis.pythonHeap() gives, after a collection, how many objects
the garbage collector knows, and the bytes of the whole WebAssembly memory."""

import gc

import js
import pyodide_js
from pyodide.ffi import create_proxy, to_js


def python_heap() -> object:
    gc.collect()
    return to_js([len(gc.get_objects()), pyodide_js._module.HEAPU8.length])


js.pythonHeap = create_proxy(python_heap)

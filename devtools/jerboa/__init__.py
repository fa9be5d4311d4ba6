"""Jerboa under the name of its package: `import jerboa` gives the objects of `py_engine`.

The wheel contains this folder as `jerboa`, beside `py_engine` (pyproject.toml).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import py_engine

if TYPE_CHECKING:
    from py_engine import *  # noqa: F403
    from py_engine import __version__ as __version__
else:
    from py_engine import __getattr__, __version__  # noqa: F401

__all__ = list(py_engine.__all__)


def __dir__() -> list[str]:
    return dir(py_engine)

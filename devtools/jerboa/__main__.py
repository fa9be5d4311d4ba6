"""python -m jerboa COMMAND."""

from __future__ import annotations

import sys

from py_engine.__main__ import main

if __name__ == "__main__":
    sys.exit(main())

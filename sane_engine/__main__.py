"""``python -m sane_engine``: see :mod:`sane_engine.cli`."""

from __future__ import annotations

import sys

from sane_engine.cli import build_parser as build_parser
from sane_engine.cli import main

if __name__ == "__main__":
    sys.exit(main())

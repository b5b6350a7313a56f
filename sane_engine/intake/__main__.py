"""The child's entry: see :mod:`sane_engine.intake.worker`."""

from __future__ import annotations

from sane_engine.intake.worker import main

if __name__ == "__main__":
    main()

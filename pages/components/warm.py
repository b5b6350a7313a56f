"""Load the heavy libraries in the background once the first picture stands, so that the first click is quick.

Afterwards, what killed processes left in the workspace a day ago or earlier is swept away, and so are uploads that
nobody kept and nobody has opened for a week.
"""

from __future__ import annotations

import gc
import threading
import time
from importlib import import_module

from pages.components.opening import drop_old_uploads
from sane_engine.workspace import sweep

# Long enough for the browser to fetch and draw the first picture before the imports compete for the interpreter.
_DELAY_SECONDS = 4.0
_LIBRARIES = ("torch", "sane_engine.sane.model")


class _WarmUp:
    lock = threading.Lock()
    started = False


def warm_up() -> None:
    """Start the background import, once in the life of the server."""
    with _WarmUp.lock:
        if _WarmUp.started:
            return
        _WarmUp.started = True
    threading.Thread(target=_import_all, name="warm-up", daemon=True).start()


def _import_all() -> None:
    time.sleep(_DELAY_SECONDS)
    for name in _LIBRARIES:
        import_module(name)
    # Streamlit collects garbage after every run of a script. It then looks at a million objects of libraries, which
    # never go, with the interpreter held: 0.1 to 0.2 s a click, for every session. Frozen, they are not looked at.
    gc.collect()
    gc.freeze()
    sweep()
    drop_old_uploads()

"""Two folders change places in one step, where the system can do that.

A folder cannot be renamed onto another that has something in it. Linux (``renameat2``) and macOS
(``renameatx_np``) can exchange two names in one step instead; Python has no function for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_CURRENT = {"linux": -100, "darwin": -2}  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE, RENAME_SWAP
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


@cache
def _system_call() -> Callable[..., int] | None:
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    if name is None:
        return None
    try:
        found = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    found.restype = ctypes.c_int
    call: Callable[..., int] = found
    return call


def exchange(first: Path, second: Path) -> bool:
    """Let two existing paths of one file system change places; false where the system cannot.

    Raises:
        FileNotFoundError: One of them is not there.
        OSError: Anything else that went wrong.
    """
    call = _system_call()
    if call is None:
        return False
    here = _CURRENT[sys.platform]
    if call(here, os.fsencode(first), here, os.fsencode(second), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(first))

"""Processes that do not outlive the one that has started them."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
"""Of prctl(2): a signal for the child when its parent ends, however that ends."""


def end_with_parent(parent: int) -> None:
    """Get SIGTERM when the parent, whose process id that is, ends; exit if it has already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)

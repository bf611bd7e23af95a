"""Forked children of a test."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable


def start_child(work: Callable[[], object]) -> int:
    """Fork a child that calls `work` and ends with status 0, or 1 if it fails; return its id."""
    with warnings.catch_warnings():
        # Python 3.12 warns of threads, such as those of pytest-xdist, which the child does not use.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def run_in_child(work: Callable[[], object]) -> None:
    """Call `work` in a forked child, and wait until it has succeeded."""
    assert os.waitpid(start_child(work), 0)[1] == 0

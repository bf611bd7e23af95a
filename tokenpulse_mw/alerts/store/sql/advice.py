"""How to mend what ails a database, where its error is known."""

from __future__ import annotations

_ADVICE = {
    "unable to open database file": "its folder must exist, and this process must be able to "
    "write to it",
    "readonly database": "this process must be able to write to the file and to its folder",
    "not a database": "the file is damaged or something else: restore it, or move it away and "
    "begin with a new one",
    "malformed": "the file is damaged: restore it, or move it away and begin with a new one",
    "database is locked": "another process holds it: wait, or let each process have its own",
    "disk is full": "make room on the disk",
    "disk i/o error": "look whether the disk is full, or broken",
}


def advice(message: str) -> str:
    """What to do about an error of which `message` is the text, as the end of a sentence."""
    for part, cure in _ADVICE.items():
        if part in message.lower():
            return f" ({cure})"
    return ""

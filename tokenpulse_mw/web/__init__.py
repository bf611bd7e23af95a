"""What is not for everyone: who is let in, what they may send, and how they are refused."""

from .bearer import bearer
from .bodies import read_body
from .guard import Authorize, Guard
from .problems import PROBLEM_JSON, Error, Loc, RefusedError, as_response, invalid, not_found

__all__ = [
    "PROBLEM_JSON",
    "Authorize",
    "Error",
    "Guard",
    "Loc",
    "RefusedError",
    "as_response",
    "bearer",
    "invalid",
    "not_found",
    "read_body",
]

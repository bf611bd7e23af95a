"""Whose fault an error of a database is."""

from __future__ import annotations

from sqlalchemy.exc import DataError, IntegrityError, StatementError

# Classes of SQLSTATE: values that are none, constraints, and what is too large for the database.
_OF_DATA = ("22", "23", "54")


def is_of_data(error: Exception) -> bool:
    """Whether it is of what was to be written: then it comes again however often it is tried."""
    if not isinstance(error, StatementError):
        return False
    if isinstance(error, DataError | IntegrityError):
        return True
    # PostgreSQL says more than a class of errors; a value of the wrong type no driver is told of.
    state = str(getattr(error.orig, "sqlstate", None))
    return state.startswith(_OF_DATA) or isinstance(error.orig, TypeError | ValueError)

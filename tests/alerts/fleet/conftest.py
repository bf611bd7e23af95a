"""PostgreSQL, as the stores use it."""

from ..store.conftest import postgres

__all__ = ["postgres"]

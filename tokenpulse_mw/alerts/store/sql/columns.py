"""Column types that keep what they are given, whatever the database."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Text
from sqlalchemy.types import TypeDecorator

# A NUL, which PostgreSQL refuses, halves of surrogate pairs, which no UTF-8 has, and `\` itself.
_UNSAFE = re.compile("[\x00\\\\\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})")

# SQLite numbers its rows by themselves only under this very type.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


class SafeText(TypeDecorator[str]):
    r"""Any text, also such as traffic brings: what a database would refuse is kept as `\uXXXX`.

    It is compared and sorted by code points, not as in some language.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Compare by code points in PostgreSQL too."""
        exact = Text(collation="C") if dialect.name == "postgresql" else Text()
        return dialect.type_descriptor(exact)

    def process_bind_param(
        self,
        value: str | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy calls it so
    ) -> str | None:
        """What is written."""
        return value and _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", value)

    def process_result_value(
        self,
        value: Any | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy calls it so
    ) -> str | None:
        """What was meant."""
        return value and _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)

"""Tables in Markdown, and the rows of the last one: what a request costs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Cell = str | float

FIGURE = re.compile(r"(?:[+-]?[0-9][0-9,.]*(?: (?:µs|ms|B))?)?")


class Row(NamedTuple):
    """Row of the last table.

    Attributes:
        case: What was measured.
        value: The figure, with its unit.
        compared: The figure that it is compared with, or a remark.
    """

    case: str
    value: str
    compared: str = ""


Summary = list[Row]


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table in Markdown; numbers get two or three significant digits."""
    print(f"\n### {title}\n")
    print(f"| {' | '.join(columns)} |")
    lines = list(rows)
    numeric = [all(_is_figure(line[index]) for line in lines) for index in range(len(columns))]
    print(f"| {' | '.join('---:' if figures else '---' for figures in numeric)} |")
    for row in lines:
        print(f"| {' | '.join(_text(cell) for cell in row)} |", flush=True)


def _is_figure(cell: Cell) -> bool:
    return not isinstance(cell, str) or FIGURE.fullmatch(cell) is not None


def _text(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    digits = 0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2
    return f"{cell:,.{digits}f}"

"""Regular expressions whose time is bounded, whatever they are matched with."""

from __future__ import annotations

import re

LONGEST = 200  # characters of a pattern, and of what is matched with it
_MOST_REPEATS = 2
_LONGEST_WITH_SEVERAL = 64  # characters of a pattern with more than one repeat
_MOST_CHOICES = 10

_TOKEN = re.compile(r"\\.|\(\?:|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|.", re.DOTALL)
_REPEAT = re.compile(r"[*+?]|\{.*\}")
_NESTED_SET = re.compile(r".\[|--|&&|\|\||~~")  # what Python may read as one, some day


def bounded(text: str) -> re.Pattern[str]:
    """A pattern that must match the whole of a text of at most 200 characters.

    Each repeat and each choice multiplies the ways in which a text can be matched, by 200 and by
    the number of choices, and in each way as much is looked at as the pattern is long. So there
    may be two repeats (`*`, `+`, `?`, `{}`) in a pattern of 64 characters, none of them of a group
    or of another; or one repeat, and one group with at most 10 choices (`|`), none of them empty.
    Outside of groups choices do not multiply. Of what begins with `(?` only `(?:` is known, and
    nothing refers back. The slowest take a few milliseconds.

    Raises:
        ValueError: `text` is another, or no regular expression at all.
    """
    tokens = _TOKEN.findall(text)
    repeats = [number for number, token in enumerate(tokens) if _REPEAT.fullmatch(token)]
    choices = _choices(tokens)
    odd = len(text) > LONGEST or len(repeats) > _MOST_REPEATS or len(choices) > 1
    odd |= len(repeats) > 1 and (len(text) > _LONGEST_WITH_SEVERAL or bool(choices))
    odd |= max(choices, default=0) > _MOST_CHOICES
    for number in repeats:
        odd |= number > 0 and (tokens[number - 1] in ("(", ")") or number - 1 in repeats)
    for token in tokens:
        odd |= (token[0] == "\\" and token[1:].isdigit()) or (
            token[0] == "[" and _NESTED_SET.search(token) is not None
        )
    if odd:
        raise ValueError(
            f"a pattern must have at most {LONGEST} characters and one repeat, or "
            f"{_LONGEST_WITH_SEVERAL} and {_MOST_REPEATS}, none of them of a group; with one "
            f"repeat at most, one group may have up to {_MOST_CHOICES} choices, none of them "
            f"empty; got {text[:100]!r}: write one silence for each case"
        )
    try:
        return re.compile(text, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"a pattern must be a regular expression, got {text[:100]!r}: {error}"
        ) from None


class Bounded:
    """A pattern as `bounded` returns it, and how much work a match is.

    Raises:
        ValueError: See `bounded`.
    """

    __slots__ = ("_fullmatch", "_repeats", "_weight")

    def __init__(self, text: str) -> None:
        self._fullmatch = bounded(text).fullmatch
        tokens = _TOKEN.findall(text)
        self._repeats = sum(_REPEAT.fullmatch(token) is not None for token in tokens)
        self._weight = max(len(text), 1) * max(_choices(tokens), default=1)

    def matches(self, text: str) -> bool:
        """Return True if the pattern matches the whole of the first 200 characters."""
        return self._fullmatch(text[:LONGEST]) is not None

    def work(self, length: int) -> int:
        """Return the most steps that a match of a text of this length takes."""
        return int((min(length, LONGEST) + 1) ** self._repeats * self._weight)


def _choices(tokens: list[str]) -> list[int]:
    """How many choices each group has that has several; empty ones are too many."""
    open_groups: list[int] = []
    found: list[int] = []
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token in ("(", "(?:"):
            open_groups.append(1)
        elif token == ")" and open_groups:
            found.append(open_groups.pop())
        elif token == "|" and open_groups:
            empty = before in ("(", "(?:", "|") or after in ("|", ")")
            open_groups[-1] += _MOST_CHOICES if empty else 1
    return [choices for choices in found if choices > 1]

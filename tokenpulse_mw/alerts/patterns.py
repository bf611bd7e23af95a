"""Regular expressions whose time is bounded, whatever they are matched with."""

from __future__ import annotations

import re

LONGEST = 200  # characters of a pattern, and of what is matched with it
_MOST_REPEATS = 2

_TOKEN = re.compile(r"\\.|\(\?:|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|.", re.DOTALL)
_REPEAT = re.compile(r"[*+?]|\{.*\}")
_NESTED_SET = re.compile(r".\[|--|&&|\|\||~~")  # what Python may read as one, some day


def bounded(text: str) -> re.Pattern[str]:
    """A pattern that must match the whole of a text of at most 200 characters.

    Each repeat and each choice multiplies the ways in which a text can be matched. So there may be
    two repeats (`*`, `+`, `?`, `{}`), none of them of a group or of another, and one group with
    choices (`|`); outside of groups choices do not multiply. Of what begins with `(?` only `(?:`
    is known, and nothing refers back.

    Raises:
        ValueError: `text` is another, or no regular expression at all.
    """
    tokens = _TOKEN.findall(text)
    repeats = [number for number, token in enumerate(tokens) if _REPEAT.fullmatch(token)]
    odd = len(text) > LONGEST or len(repeats) > _MOST_REPEATS or _choosing_groups(tokens) > 1
    for number in repeats:
        odd |= number > 0 and (tokens[number - 1] in ("(", ")") or number - 1 in repeats)
    for token in tokens:
        odd |= (token[0] == "\\" and token[1:].isdigit()) or (
            token[0] == "[" and _NESTED_SET.search(token) is not None
        )
    if odd:
        raise ValueError(
            f"a pattern must have at most {LONGEST} characters and {_MOST_REPEATS} repeats, none "
            "of them of a group, and at most one group with choices, got "
            f"{text[:100]!r}: write one silence for each case"
        )
    try:
        return re.compile(text, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"a pattern must be a regular expression, got {text[:100]!r}: {error}"
        ) from None


def _choosing_groups(tokens: list[str]) -> int:
    """How many groups have choices, also by a group inside of them."""
    open_groups: list[bool] = []
    found = 0
    for token in tokens:
        if token in ("(", "(?:"):
            open_groups.append(False)
        elif token == ")" and open_groups:
            found += open_groups.pop()
        elif token == "|" and open_groups:
            open_groups[-1] = True
    return found

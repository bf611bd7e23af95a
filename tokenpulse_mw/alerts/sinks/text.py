"""Text of others, made harmless: names of tenants and keys stand in every alert."""

from __future__ import annotations

from ..serialization import replace_surrogates

# A control character could forge a line, and one that turns the writing direction a whole text.
_UNSEEN = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ")
_TURNING = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNSEEN |= dict.fromkeys(_TURNING, "")
_ENDING = "..."

LONGEST_FINGERPRINT = 300  # characters of one in a line of the log


def single_line(text: str, longest: int) -> str:
    """`text` without control characters, and of at most `longest` characters."""
    text = replace_surrogates(text[: 2 * longest]).translate(_UNSEEN).strip()
    return text if len(text) <= longest else text[: longest - len(_ENDING)] + _ENDING

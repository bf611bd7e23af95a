"""How much of an answer is looked at, whatever its form."""

from __future__ import annotations

LONGEST = 1024 * 1024  # bytes of one event, of one frame, or of one JSON document
DECODED = 64 * 1024 * 1024  # bytes that are decoded of a compressed answer, in all
DECODED_AT_FIRST = 2 * 1024 * 1024  # of them, those that the first bytes may say
DECODED_A_BYTE = 64  # and those that each byte may add: answers are compressed less than that

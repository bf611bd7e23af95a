"""How much of an answer is looked at, whatever its form."""

from __future__ import annotations

LONGEST = 1024 * 1024  # bytes of one event, of one frame, or of one JSON document
DECODED = 64 * 1024 * 1024  # bytes that are decoded of a compressed answer, in all
DECODED_AT_FIRST = 2 * 1024 * 1024  # of them, those that the first bytes may say
DECODED_A_BYTE = 256  # and those that each byte may add: brotli makes a 150th of some streams
TO_WORDS = 1024 * 1024  # bytes of a stream in which the model's first words are looked for
EVENT_TO_WORDS = 1024  # and what the shortest of its events counts as
LINES = 10_000  # of what is read line by line
READ_IN_VAIN = 10_000  # events that may tell the usage and do not tell all of it

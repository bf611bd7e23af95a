"""How long a name may be that other people give."""

from __future__ import annotations

from hashlib import blake2b

LONGEST = 256  # characters


def shortened(text: str) -> str:
    """`text` if it is short, else its beginning and a hash: its length must not be up to a client.

    What is shortened is longer than all that is not, so no short text can be taken for it.
    """
    if len(text) <= LONGEST:
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{text[:LONGEST]}~{digest.hexdigest()}"

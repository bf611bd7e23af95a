"""Content codings: compressed bytes in, in any chunking; what they say out, piece by piece.

However much a few bytes say, it is handed on in pieces: none of it is held whole.
"""

from .choose import decoders_for
from .decoder import CorruptError, Decoder, Make

__all__ = ["CorruptError", "Decoder", "Make", "decoders_for"]

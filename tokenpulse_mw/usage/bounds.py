"""Bounds of memory and work for one response. Work is counted in nominal nanoseconds."""

from __future__ import annotations

# Memory.
MAX_DOCUMENT_BYTES = 1024 * 1024  # one event, one frame, or one JSON document
MAX_SLICE_BYTES = 64 * 1024  # of a chunk, scanned in one step
MAX_FEED_MEMORY_BYTES = 8 * 1024 * 1024  # while a chunk is read, in addition to twice the chunk
MAX_WINDOW_LOG_BROTLI = 22  # 4 MiB: the default of brotli's encoders
MAX_WINDOW_LOG_ZSTD = 23  # 8 MiB: the limit of RFC 9659, and the default of Go's encoder
MAX_CODINGS = 2  # nested
MAX_BUILT_VALUES = 1_000  # JSON values that Python objects are created for, in one field
MAX_EVENT_LINES = 10_000  # of one event

# Bytes decoded of a compressed response.
MAX_DECODED_BYTES = 64 * 1024 * 1024  # in all
MAX_DECODED_AT_FIRST_BYTES = 2 * 1024 * 1024  # before compressed bytes add to them
MAX_DECODED_PER_BYTE_BYTES = 256  # added by each compressed byte: brotli reaches 150 on events
MAX_COMPRESSED_FRAMES = 1_024  # gzip members or zstd frames: an empty one costs time, too

# Reading.
MAX_SILENT_BYTES = 1024 * 1024  # of a stream, searched for the first output
MIN_SILENT_EVENT_BYTES = 1024  # counted for a shorter event
MAX_DOCUMENT_LINES = 1_000  # of a document that is read line by line
REPAIRED = (b"\\ud", b"\\uD", b"NaN", b"Infinity")  # the beginnings of text that may need repair
MAX_REPAIRS = 20_000  # of each kind, in one document
MAX_USELESS_READS = 5_000  # of events that match `markers.COUNT` without a complete report
MAX_FRAME_HEADERS = 32
MAX_CHOICES = 16  # of one event, examined for output
MAX_OUTPUT_VALUES = 64  # JSON values of one event, examined for output
MAX_TOOLS = 16  # that report tokens of their own beside the usage
MAX_DETAILS = 16  # parts of one count, such as one for each modality
MAX_ITERATIONS = 256  # model calls that Anthropic lists in one usage

# Work.
MAX_FEED_WORK_NS = 30_000_000  # of one call of `feed`
MAX_BODY_WORK_NS = 100_000_000  # of one body, and in addition:
MAX_BODY_WORK_PER_BYTE_NS = 100  # for each byte that the server received
DOCUMENT_WORK_NS = 4_000  # decoding a document
DOCUMENT_BYTE_WORK_NS = 8  # each byte of it
OBJECT_WORK_NS = 300  # each opening bracket of it
DOCUMENT_PART_WORK_NS = 3_000  # each of several documents in one
REPAIR_WORK_NS = 6_000  # repairing a document that cannot be decoded
REPAIR_BYTE_WORK_NS = 5  # each byte of it
REPAIR_EACH_WORK_NS = 150  # each possible fault in it
OPENING_WORK_NS = 16_000  # searching a document for output
EVENT_LINE_WORK_NS = 150  # splitting an event into lines
FRAME_WORK_NS = 4_000  # a frame of an AWS event stream
ARRAY_BYTE_WORK_NS = 4  # a byte of a streamed array
BRACKET_WORK_NS = 250  # a bracket of a streamed array
QUOTE_WORK_NS = 25  # a quote or a backslash of a streamed array
COMPRESSED_BYTE_WORK_NS = 45  # a byte before decompression: an empty deflate block costs 500
DECODED_BYTE_WORK_NS = 3  # a byte after decompression

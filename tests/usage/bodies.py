"""Small responses of every vendor, as sent by them, with their usage."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tokenpulse_mw.usage import TokenUsage, UsageAccount, meter_for
from tokenpulse_mw.usage.document import Document, read

JSON = b"application/json"
SSE = b"text/event-stream"
FRAMES = b"application/vnd.amazon.eventstream"


class Body(NamedTuple):
    """A response: `before` + `first` + `after`; `first` has the first output, if it is a stream."""

    content_type: bytes
    before: bytes
    first: bytes
    after: bytes
    usage: TokenUsage
    model: str | None

    @property
    def data(self) -> bytes:
        """Return the whole body."""
        return self.before + self.first + self.after


def event(payload: Any, name: str = "", *, end: str = "\n") -> bytes:
    """Return a server-sent event."""
    head = f"event: {name}{end}" if name else ""
    return f"{head}data: {json.dumps(payload)}{end}{end}".encode()


def header(name: str, kind: int, value: bytes) -> bytes:
    """Return a header of a frame, with an encoded value."""
    return bytes([len(name)]) + name.encode() + bytes([kind]) + value


def text_header(name: str, value: str) -> bytes:
    """Return a header of a frame with a string value."""
    return header(name, 7, struct.pack(">H", len(value)) + value.encode())


def frame(headers: bytes, payload: bytes) -> bytes:
    """Return a frame of an AWS event stream."""
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def bedrock_event(kind: str, payload: Any) -> bytes:
    """Return a frame with an event of type `kind`, as sent by Amazon Bedrock."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    encoded = b"".join(text_header(name, value) for name, value in headers.items())
    return frame(encoded, json.dumps(payload).encode())


def bedrock_chunk(payload: Any) -> bytes:
    """Return a frame with an event of the model's vendor, as sent by InvokeModel."""
    encoded = base64.b64encode(json.dumps(payload).encode()).decode()
    return bedrock_event("chunk", {"bytes": encoded, "p": "abc"})


def _typed(*payloads: dict[str, Any]) -> bytes:
    """Return events named by their `type`, as sent by Anthropic and OpenAI Responses."""
    return b"".join(event(payload, payload["type"]) for payload in payloads)


def _document(payload: Any, usage: TokenUsage, model: str | None) -> Body:
    return Body(JSON, json.dumps(payload, indent=1).encode(), b"", b"", usage, model)


def document(payload: dict[str, Any]) -> Document:
    """Return the document of `payload`."""
    (only,) = read(json.dumps(payload).encode())
    return only


def measure(
    content_type: bytes, chunks: Iterable[bytes], *, complete: bool = True, encoding: bytes = b""
) -> UsageAccount:
    """Return the account of a response that was received in `chunks`."""
    meter = meter_for(content_type, encoding)
    assert meter is not None
    for chunk in chunks:
        meter.feed(chunk)
    meter.finish(complete=complete)
    return meter.account


def outcome(account: UsageAccount) -> tuple[object, ...]:
    """Return the attributes of an account that tests compare."""
    return account.usage, account.source, account.model, account.failed, account.unreadable


def _chat_usage(prompt: int, cached: int, completion: int, reasoning: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _chat_chunk(choices: Sequence[Any], usage: Any = None) -> bytes:
    head = {"id": "c-1", "object": "chat.completion.chunk", "model": "gpt-5-mini"}
    return event({**head, "choices": choices, "usage": usage})


CHAT_JSON = _document(
    {
        "id": "c-1",
        "object": "chat.completion",
        "model": "gpt-5-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}}],
        "usage": _chat_usage(120, 100, 30, 20),
    },
    TokenUsage(input=120, output=30, cache_read=100, reasoning=20),
    "gpt-5-mini",
)
CHAT_SSE = Body(
    SSE,
    _chat_chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}}]),
    _chat_chunk([{"index": 0, "delta": {"content": "Par"}}]),
    _chat_chunk([{"index": 0, "delta": {"content": "is."}}])
    + _chat_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _chat_chunk([], _chat_usage(120, 100, 30, 20))
    + b"data: [DONE]\n\n",
    TokenUsage(input=120, output=30, cache_read=100, reasoning=20),
    "gpt-5-mini",
)

_RESPONSE: dict[str, Any] = {"id": "r-1", "object": "response", "model": "gpt-5", "error": None}
_RESPONSE_USAGE = {
    "input_tokens": 75,
    "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 8},
    "output_tokens": 41,
    "output_tokens_details": {"reasoning_tokens": 32},
    "total_tokens": 116,
}

RESPONSES_JSON = _document(
    {**_RESPONSE, "status": "completed", "output": [], "usage": _RESPONSE_USAGE},
    TokenUsage(input=75, output=41, cache_read=64, cache_write=8, reasoning=32),
    "gpt-5",
)
RESPONSES_SSE = Body(
    SSE,
    _typed(
        {"type": "response.created", "response": {**_RESPONSE, "usage": None}},
        {"type": "response.in_progress", "response": {**_RESPONSE, "usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
    ),
    _typed({"type": "response.output_text.delta", "delta": "Par"}),
    _typed(
        {"type": "response.output_text.delta", "delta": "is."},
        {"type": "response.output_text.done", "text": "Paris."},
        {"type": "response.completed", "response": {**_RESPONSE, "usage": _RESPONSE_USAGE}},
    ),
    TokenUsage(input=75, output=41, cache_read=64, cache_write=8, reasoning=32),
    "gpt-5",
)

ANTHROPIC_JSON = _document(
    {
        "id": "m-1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "Paris."}],
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 3000,
            "output_tokens": 40,
            "output_tokens_details": {"thinking_tokens": 25},
        },
    },
    TokenUsage(input=3210, output=40, cache_read=3000, cache_write=200, reasoning=25),
    "claude-sonnet-4-5",
)
_MESSAGE_START = {
    "type": "message_start",
    "message": {
        "type": "message",
        "model": "claude-sonnet-4-5",
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 3000,
            "output_tokens": 1,
        },
    },
}
ANTHROPIC_SSE = Body(
    SSE,
    _typed(
        _MESSAGE_START,
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ),
    _typed({"type": "content_block_delta", "index": 0, "delta": {"text": "Paris."}}),
    _typed(
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 40},
        },
        {"type": "message_stop"},
    ),
    TokenUsage(input=3210, output=40, cache_read=3000, cache_write=200),
    "claude-sonnet-4-5",
)


def _gemini(text: str, **counts: int) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}}],
        "usageMetadata": counts,
        "modelVersion": "gemini-2.5-flash",
    }


_GEMINI = [
    _gemini("Par", promptTokenCount=7, totalTokenCount=7),
    _gemini("i", promptTokenCount=7, candidatesTokenCount=2, totalTokenCount=9),
    _gemini(
        "s.",
        promptTokenCount=7,
        toolUsePromptTokenCount=5,
        cachedContentTokenCount=4,
        candidatesTokenCount=3,
        thoughtsTokenCount=60,
        totalTokenCount=75,
    ),
]
_GEMINI_USAGE = TokenUsage(input=12, output=63, cache_read=4, reasoning=60)

GEMINI_JSON = _document(_GEMINI[-1], _GEMINI_USAGE, "gemini-2.5-flash")
GEMINI_ARRAY = Body(
    JSON,
    b"",
    b"[" + json.dumps(_GEMINI[0], indent=2).encode(),
    b"".join(b"\n,\r\n" + json.dumps(part, indent=2).encode() for part in _GEMINI[1:]) + b"\n]\n",
    _GEMINI_USAGE,
    "gemini-2.5-flash",
)
GEMINI_SSE = Body(
    SSE,
    b"",
    event(_GEMINI[0], end="\r\n"),
    event(_GEMINI[1], end="\r\n") + event(_GEMINI[2], end="\r\n"),
    _GEMINI_USAGE,
    "gemini-2.5-flash",
)

BEDROCK_JSON = _document(
    {
        "output": {"message": {"role": "assistant", "content": [{"text": "Paris."}]}},
        "stopReason": "end_turn",
        "usage": {
            "inputTokens": 558,
            "outputTokens": 46,
            "totalTokens": 604,
            "cacheReadInputTokens": 0,
            "cacheReadInputTokenCount": 0,
        },
    },
    TokenUsage(input=558, output=46),
    None,
)

CODE_ASSIST_SSE = Body(
    SSE,
    b"",
    event({"response": _GEMINI[0], "traceId": "t-1"}, end="\r\n"),
    event({"response": _GEMINI[2], "traceId": "t-1"}, end="\r\n"),
    _GEMINI_USAGE,
    "gemini-2.5-flash",
)


def _dashscope(text: str, output: int) -> bytes:
    usage = {"input_tokens": 26, "output_tokens": output, "total_tokens": 26 + output}
    payload = {"output": {"text": text, "finish_reason": "null"}, "usage": usage}
    return b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:%s\n\n" % json.dumps(payload).encode()


DASHSCOPE_SSE = Body(
    SSE,
    _dashscope("", 0),
    _dashscope("Par", 1),
    _dashscope("Paris.", 3),
    TokenUsage(input=26, output=3),
    None,
)

_GROQ_USAGE = {"usage": _chat_usage(120, 0, 30, 0)}

GROQ_SSE = Body(
    SSE,
    event({"model": "llama-3.3-70b", "choices": [], "x_groq": {"id": "req"}}),
    event({"model": "llama-3.3-70b", "choices": [{"index": 0, "delta": {"content": "Paris."}}]}),
    event({"model": "llama-3.3-70b", "choices": [], "x_groq": _GROQ_USAGE}),
    TokenUsage(input=120, output=30),
    "llama-3.3-70b",
)

BEDROCK_STREAM = Body(
    FRAMES,
    bedrock_event("messageStart", {"role": "assistant", "p": "abcd"}),
    bedrock_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Paris."}}),
    bedrock_event("contentBlockStop", {"contentBlockIndex": 0})
    + bedrock_event("messageStop", {"stopReason": "end_turn"})
    + bedrock_event(
        "metadata",
        {
            "metrics": {"latencyMs": 410},
            "usage": {
                "inputTokens": 10,
                "outputTokens": 40,
                "totalTokens": 3250,
                "cacheReadInputTokens": 3000,
                "cacheReadInputTokenCount": 3000,
                "cacheWriteInputTokens": 200,
            },
        },
    ),
    TokenUsage(input=3210, output=40, cache_read=3000, cache_write=200),
    None,
)
_INVOCATION = {"inputTokenCount": 10, "outputTokenCount": 40, "cacheReadInputTokenCount": 3000}
INVOKE_STREAM = Body(
    FRAMES,
    bedrock_chunk(_MESSAGE_START),
    bedrock_chunk({"type": "content_block_delta", "index": 0, "delta": {"text": "Paris."}}),
    bedrock_chunk({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 40}})
    + bedrock_chunk({"type": "message_stop", "amazon-bedrock-invocationMetrics": _INVOCATION}),
    TokenUsage(input=3210, output=40, cache_read=3000, cache_write=200),
    "claude-sonnet-4-5",
)

_COHERE_USAGE = {
    "billed_units": {"input_tokens": 4, "output_tokens": 40},
    "tokens": {"input_tokens": 70, "output_tokens": 43},
    "cached_tokens": 64,
}
COHERE_JSON = _document(
    {
        "id": "c-1",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "Paris."}]},
        "usage": _COHERE_USAGE,
    },
    TokenUsage(input=70, output=43, cache_read=64),
    None,
)
COHERE_SSE = Body(
    SSE,
    _typed(
        {"type": "message-start", "id": "c-1", "delta": {"message": {"role": "assistant"}}},
        {
            "type": "content-start",
            "index": 0,
            "delta": {"message": {"content": {"type": "text", "text": ""}}},
        },
    ),
    _typed(
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Paris."}}}}
    ),
    _typed(
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": _COHERE_USAGE}},
    )
    + b"data: [DONE]\n\n",
    TokenUsage(input=70, output=43, cache_read=64),
    None,
)

BODIES: dict[str, Body] = {
    "chat-json": CHAT_JSON,
    "chat-sse": CHAT_SSE,
    "responses-json": RESPONSES_JSON,
    "responses-sse": RESPONSES_SSE,
    "anthropic-json": ANTHROPIC_JSON,
    "anthropic-sse": ANTHROPIC_SSE,
    "gemini-json": GEMINI_JSON,
    "gemini-array": GEMINI_ARRAY,
    "gemini-sse": GEMINI_SSE,
    "code-assist-sse": CODE_ASSIST_SSE,
    "dashscope-sse": DASHSCOPE_SSE,
    "groq-sse": GROQ_SSE,
    "cohere-json": COHERE_JSON,
    "cohere-sse": COHERE_SSE,
    "bedrock-json": BEDROCK_JSON,
    "bedrock-stream": BEDROCK_STREAM,
    "invoke-stream": INVOKE_STREAM,
}
STREAMS: dict[str, Body] = {name: body for name, body in BODIES.items() if body.content_type == SSE}
WITH_OUTPUT: dict[str, Body] = {name: body for name, body in BODIES.items() if body.first}

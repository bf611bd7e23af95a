"""Sessions of models over WebSockets, written as the vendors document their messages."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenpulse_mw.usage import TokenUsage

Frame = str | bytes
# Model, usage and source of a response.
Outcome = tuple[str | None, TokenUsage | None, str]

PCM = base64.b64encode(bytes(range(256)) * 7).decode()


@dataclass(frozen=True)
class Session:
    """The frames of one session, and the responses in it.

    Attributes:
        client: Frames of the client.
        server: Frames of the server.
        responses: The responses, in the order of their ends.
    """

    client: Sequence[Frame]
    server: Sequence[Frame]
    responses: Sequence[Outcome]


def text(message: dict[str, Any]) -> str:
    """Return a message as OpenAI sends it: compact, in a text frame."""
    return json.dumps(message, separators=(",", ":"))


def binary(message: dict[str, Any]) -> bytes:
    """Return a message as Gemini sends it: indented, in a binary frame."""
    return json.dumps(message, indent=2).encode() + b"\n"


def realtime_usage(
    *, read: int, written: int, cached: int = 0, audio_read: int = 0, audio_written: int = 0
) -> dict[str, Any]:
    """Return the usage of a Realtime response."""
    return {
        "total_tokens": read + written,
        "input_tokens": read,
        "output_tokens": written,
        "input_token_details": {
            "text_tokens": read - audio_read,
            "audio_tokens": audio_read,
            "image_tokens": 0,
            "cached_tokens": cached,
            "cached_tokens_details": {"text_tokens": cached, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {
            "text_tokens": written - audio_written,
            "audio_tokens": audio_written,
        },
    }


def realtime(kind: str, **fields: Any) -> str:
    """Return a message of a Realtime session."""
    return text({"type": kind, "event_id": "event_C8vHqLdBm2tQk0zX1YpVa", **fields})


def realtime_response(
    name: str, status: str = "in_progress", usage: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the response in a message of Realtime."""
    return {
        "object": "realtime.response",
        "id": name,
        "status": status,
        "status_details": None,
        "output": [],
        "conversation_id": "conv_C8vHq",
        "output_modalities": ["audio"],
        "max_output_tokens": "inf",
        "audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"}},
        "usage": usage,
        "metadata": None,
    }


def realtime_session(kind: str = "session.created") -> str:
    """Return the session of Realtime, with a model of its own for transcriptions."""
    transcription = {"model": "gpt-4o-mini-transcribe", "language": None, "prompt": None}
    return realtime(
        kind,
        session={
            "type": "realtime",
            "object": "realtime.session",
            "id": "sess_C8vHq",
            "model": "gpt-realtime-2025-08-28",
            "instructions": 'Be "brief".',
            "audio": {"input": {"transcription": transcription, "turn_detection": None}},
        },
    )


def audio_delta(name: str) -> str:
    """Return a message with audio of a Realtime response."""
    return realtime(
        "response.output_audio.delta",
        response_id=name,
        item_id="item_C8vHr",
        output_index=0,
        content_index=0,
        delta=PCM,
    )


def transcription(usage: dict[str, Any] | None) -> str:
    """Return the transcription of audio of the client."""
    return realtime(
        "conversation.item.input_audio_transcription.completed",
        item_id="item_C8vHs",
        content_index=0,
        transcript='He said "usage": {"input_tokens": 99}.',
        usage=usage,
    )


REALTIME = Session(
    client=[text({"type": "response.create"})],
    server=[
        realtime_session(),
        realtime_session("session.updated"),
        realtime("input_audio_buffer.speech_started", audio_start_ms=0, item_id="item_C8vHs"),
        realtime("response.created", response=realtime_response("resp_1")),
        audio_delta("resp_1"),
        realtime("response.created", response=realtime_response("resp_2")),  # out of band
        audio_delta("resp_1"),
        audio_delta("resp_2"),
        transcription(
            {
                "type": "tokens",
                "total_tokens": 22,
                "input_tokens": 13,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 13},
                "output_tokens": 9,
            }
        ),
        transcription({"type": "duration", "seconds": 3.2}),
        realtime("error", error={"type": "invalid_request_error", "code": "unknown_parameter"}),
        realtime(
            "response.done",
            response=realtime_response(
                "resp_2", "completed", realtime_usage(read=40, written=2, cached=32)
            ),
        ),
        realtime("rate_limits.updated", rate_limits=[{"name": "tokens", "remaining": 49_950}]),
        realtime(
            "response.done",
            response=realtime_response(
                "resp_1",
                "cancelled",
                realtime_usage(read=132, written=121, cached=64, audio_read=13, audio_written=91),
            ),
        ),
    ],
    responses=[
        ("gpt-4o-mini-transcribe", TokenUsage(13, 9, audio_input=13), "reported"),
        ("gpt-realtime-2025-08-28", TokenUsage(40, 2, 32), "reported"),
        (
            "gpt-realtime-2025-08-28",
            TokenUsage(132, 121, 64, audio_input=13, audio_output=91),
            "reported",
        ),
    ],
)


def responses_usage(*, read: int, written: int, cached: int = 0, reasoning: int = 0) -> Any:
    """Return the usage of OpenAI Responses."""
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": read + written,
    }


def response(
    kind: str, name: str, usage: dict[str, Any] | None = None, *, output: str = "", **fields: Any
) -> str:
    """Return a message with the response of OpenAI Responses."""
    return text(
        {
            "type": kind,
            "response": {
                "id": name,
                "object": "response",
                "created_at": 1770000000,
                "status": kind.removeprefix("response."),
                "error": None,
                "instructions": "You are Codex.",
                "model": "gpt-5.3-codex",
                "output": [{"type": "message", "content": [{"text": output}]}],
                "previous_response_id": None,
                "usage": usage,
                "metadata": {},
            },
            "sequence_number": 9,
            **fields,
        }
    )


def text_delta(word: str, **fields: Any) -> str:
    """Return a message with text of OpenAI Responses."""
    return text(
        {
            "type": "response.output_text.delta",
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "delta": word,
            "logprobs": [],
            "sequence_number": 4,
            **fields,
        }
    )


RESPONSES = Session(
    client=[text({"type": "response.create", "model": "gpt-5.3-codex", "input": "Hi"})],
    server=[
        response("response.created", "resp_1"),
        response("response.in_progress", "resp_1"),
        text_delta("Hello"),
        text_delta('"usage":{"input_tokens":7000,"total_tokens":7000}'),
        text({"type": "response.output_text.done", "item_id": "msg_1", "text": "Hello"}),
        response(
            "response.completed",
            "resp_1",
            responses_usage(read=75, written=1186, cached=64, reasoning=1024),
            output='"usage": {"input_tokens": 1, "output_tokens": 1}',
        ),
        response("response.created", "resp_2"),
        response("response.incomplete", "resp_2", responses_usage(read=1261, written=16)),
        response("response.created", "resp_3"),
        response("response.failed", "resp_3"),
        text({"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}}),
        response("response.created", "resp_4", stream_id="a"),
        response("response.created", "resp_5", stream_id="b"),
        text_delta("two", stream_id="b"),
        text_delta("one", stream_id="a"),
        response("response.completed", "resp_5", responses_usage(read=5, written=6), stream_id="b"),
        text({"type": "error", "error": {"code": "server_error"}, "stream_id": "a"}),
    ],
    responses=[
        ("gpt-5.3-codex", TokenUsage(75, 1186, 64, reasoning=1024), "reported"),
        ("gpt-5.3-codex", TokenUsage(1261, 16), "reported"),
        ("gpt-5.3-codex", None, "missing"),
        ("gpt-5.3-codex", TokenUsage(5, 6), "reported"),
        ("gpt-5.3-codex", None, "missing"),
    ],
)


def live_usage(
    prompt: int, written: int, *, thoughts: int = 0, tools: int = 0, cached: int = 0
) -> dict[str, Any]:
    """Return the usage of a Live session, whose output is audio."""
    return {
        "promptTokenCount": prompt,
        "cachedContentTokenCount": cached,
        "responseTokenCount": written,
        "toolUsePromptTokenCount": tools,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + written + thoughts + tools,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": prompt - 5},
            {"modality": "AUDIO", "tokenCount": 5},
        ],
        "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": written}],
    }


def model_turn(**fields: Any) -> bytes:
    """Return a message with audio of a Live session."""
    parts = [{"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": PCM}}]
    return binary({"serverContent": {"modelTurn": {"role": "model", "parts": parts}}, **fields})


TURN_COMPLETE = binary({"serverContent": {"turnComplete": True}})

LIVE = Session(
    client=[
        text(
            {
                "setup": {
                    "model": "models/gemini-2.5-flash-native-audio-preview-09-2025",
                    "generationConfig": {"responseModalities": ["AUDIO"]},
                }
            }
        ),
        text({"realtimeInput": {"audio": {"data": PCM, "mimeType": "audio/pcm;rate=16000"}}}),
    ],
    server=[
        binary({"setupComplete": {}}),
        model_turn(),
        model_turn(),
        binary({"serverContent": {"outputTranscription": {"text": '"turnComplete" "usage'}}}),
        binary({"serverContent": {"generationComplete": True}}),
        binary(
            {
                "serverContent": {"turnComplete": True},
                "usageMetadata": live_usage(373, 23, thoughts=11, cached=128),
            }
        ),
        binary({"sessionResumptionUpdate": {"newHandle": "h", "resumable": True}}),
        # A turn with a call of a tool: two generations, each with its own prompt.
        binary(
            {
                "toolCall": {"functionCalls": [{"id": "f1", "name": "find", "args": {}}]},
                "usageMetadata": live_usage(413, 9),
            }
        ),
        model_turn(usageMetadata=live_usage(440, 12, tools=6)),
        model_turn(usageMetadata=live_usage(440, 31, tools=6)),  # a running total
        binary({"serverContent": {"interrupted": True}}),
        TURN_COMPLETE,
        # The usage arrives after the end of the turn.
        model_turn(),
        TURN_COMPLETE,
        binary({"usageMetadata": live_usage(500, 24)}),
        # A turn without usage, which the next one ends.
        model_turn(),
        TURN_COMPLETE,
        model_turn(),
        binary({"serverContent": {"turnComplete": True}, "usageMetadata": live_usage(600, 25)}),
        binary({"goAway": {"timeLeft": "10s"}}),
    ],
    responses=[
        (
            "gemini-2.5-flash-native-audio-preview-09-2025",
            TokenUsage(373, 34, 128, reasoning=11, audio_input=5, audio_output=23),
            "reported",
        ),
        (
            "gemini-2.5-flash-native-audio-preview-09-2025",
            TokenUsage(413 + 446, 9 + 31, audio_input=10, audio_output=40),
            "reported",
        ),
        (
            "gemini-2.5-flash-native-audio-preview-09-2025",
            TokenUsage(500, 24, audio_input=5, audio_output=24),
            "reported",
        ),
        ("gemini-2.5-flash-native-audio-preview-09-2025", None, "missing"),
        (
            "gemini-2.5-flash-native-audio-preview-09-2025",
            TokenUsage(600, 25, audio_input=5, audio_output=25),
            "reported",
        ),
    ],
)

SESSIONS = {"realtime": REALTIME, "responses": RESPONSES, "live": LIVE}

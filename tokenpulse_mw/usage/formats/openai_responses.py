"""OpenAI Responses and Realtime, and DashScope's own API, which uses the same counts."""

from __future__ import annotations

from itertools import islice

import msgspec

from ..bounds import MAX_TOOLS
from ..document import NOTHING, UNREADABLE, Document, Event, is_small, opens_with
from ..session import SessionMessage, SessionResponses, object_of, text_of
from ..tokens import Fields, TokenUsage, count, get_object, has_count, hidden_tokens
from .base import Format, UsageReport, any_object, count_searches, is_text
from .openai_chat import CACHE_WRITE, choice_has_output

# Only OpenAI and compatible APIs report a total or details of the input.
_DETAILS = ("total_tokens", "input_tokens_details", "prompt_tokens_details")


def _find_usage(document: Document) -> UsageReport | None:
    usage = document.usage
    if not isinstance(usage, dict) or not has_count(usage, "input_tokens", "output_tokens"):
        return None
    if (
        document.object == "response"
        or any(name in usage for name in _DETAILS)
        or "reasoning_tokens" in get_object(usage, "output_tokens_details")
    ):
        if isinstance(document.tool_usage, dict):
            usage = {**usage, "tool_usage": document.tool_usage}
        return UsageReport(FORMAT, usage)
    return None


def _count(usage: Fields) -> TokenUsage:
    read = get_object(usage, "input_tokens_details") or get_object(usage, "input_token_details")
    written = get_object(usage, "output_tokens_details")
    written = written or get_object(usage, "output_token_details")
    if "prompt_tokens_details" in usage:  # DashScope
        read = {**get_object(usage, "prompt_tokens_details"), **read}
    prompt, output = count(usage, "input_tokens"), count(usage, "output_tokens")
    hidden = hidden_tokens(usage, "total_tokens", prompt + output)
    reasoning = count(written, "reasoning_tokens")
    own = TokenUsage(
        prompt,
        output + hidden,
        count(read, "cached_tokens") or count(usage, "cached_tokens"),
        count(read, *CACHE_WRITE),
        reasoning or hidden,
        0,  # OpenAI has no cache writes for an hour
        count(read, "audio_tokens") if "audio_tokens" in read else 0,
        count(written, "audio_tokens") if "audio_tokens" in written else 0,
        count_searches(usage),
    )
    return own + _count_tools(usage["tool_usage"]) if "tool_usage" in usage else own


def _count_tools(tools: Fields) -> TokenUsage:
    """Return the tokens of models that tools called, such as images, and the web searches."""
    usage = TokenUsage()
    for name in islice(tools, MAX_TOOLS):
        tool = get_object(tools, name)
        searches = count(tool, "num_requests") if name == "web_search" else 0
        tokens = count(tool, "input_tokens"), count(tool, "output_tokens")
        usage += TokenUsage(*tokens, searches=searches)
    return usage


def _has_output(event: Event) -> bool:
    """Return True for DashScope: a text, or chat choices, inside `output`."""
    if not opens_with(event.output, b"{"):
        return False
    if not is_small(event.output):
        return True
    output = msgspec.json.decode(event.output, type=Event)
    return is_text(output.text) or any_object(output.choices, choice_has_output)


def _is_response(document: Document) -> bool:
    return opens_with(document.output, b"[{")


def _has_error(document: Document) -> bool:
    if document.type == "response.failed":
        return True
    return bool(document.object == "response" and document.status == "failed")


FORMAT = Format(
    "openai-responses",
    find_usage=_find_usage,
    count=_count,
    has_output=_has_output,
    is_response=_is_response,
    has_error=_has_error,
)


END_TYPES = frozenset(
    (
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.done",  # of Realtime
    )
)
_BEGIN = "response.created"
_TRANSCRIPTION = "conversation.item.input_audio_transcription.completed"
_SESSIONS = frozenset(
    (
        "session.created",
        "session.updated",
        "transcription_session.created",
        "transcription_session.updated",
    )
)
_ERROR = "error"
# Types of messages that are read; those of deltas only until the first output.
SESSION_TYPES = frozenset((*END_TYPES, *_SESSIONS, _BEGIN, _TRANSCRIPTION, _ERROR))


def is_delta(kind: str) -> bool:
    """Return True for a message with output of a model."""
    return kind.startswith("response.") and kind.endswith(".delta")


class _ResponseObject(msgspec.Struct):
    """The fields in use of the response in a message."""

    id: msgspec.Raw = NOTHING
    model: msgspec.Raw = NOTHING
    status: msgspec.Raw = NOTHING
    usage: msgspec.Raw = NOTHING
    tool_usage: msgspec.Raw = NOTHING


class _SessionObject(msgspec.Struct):
    """The fields in use of the session in a message, which may also have long instructions."""

    model: msgspec.Raw = NOTHING
    audio: msgspec.Raw = NOTHING
    input_audio_transcription: msgspec.Raw = NOTHING  # before the general availability


_NO_RESPONSE, _NO_SESSION = _ResponseObject(), _SessionObject()
_decode_response = msgspec.json.Decoder(_ResponseObject).decode
_decode_session = msgspec.json.Decoder(_SessionObject).decode


class OpenAISession:
    """Reads the messages of a Realtime session, or of Responses over a WebSocket.

    A response begins with `response.created` and ends with `response.done`, or with one of
    `response.completed`, `response.incomplete` and `response.failed`. Responses have an id, because
    several can be in progress. A transcription of the input is a response of its own, as another
    model wrote it and it is billed apart; if it is billed by its duration, it is not counted.
    """

    __slots__ = ("_responses", "_transcription_model")

    def __init__(self, responses: SessionResponses) -> None:
        self._responses = responses
        self._transcription_model: str | None = None

    def read(self, kind: str, message: SessionMessage) -> None:
        """Read a message of one of `SESSION_TYPES`, or one with output."""
        if kind in END_TYPES:
            self._end(kind, message)
        elif kind == _BEGIN:
            response = _response_of(message)
            self._responses.begin(
                text_of(response.id) or "",
                model=text_of(response.model),
                stream=text_of(message.stream_id),
            )
        elif kind in _SESSIONS:
            self._read_session(message)
        elif kind == _TRANSCRIPTION:
            self._read_transcription(message)
        elif kind == _ERROR:
            self._fail(message)
        else:
            self._responses.mark_output(text_of(message.response_id), text_of(message.stream_id))

    def _end(self, kind: str, message: SessionMessage) -> None:
        responses, inner = self._responses, _response_of(message)
        name, stream = text_of(inner.id), text_of(message.stream_id)
        response = responses.find(name, stream) or responses.begin(name or "", stream=stream)
        response.model = text_of(inner.model) or response.model
        if (report := _report_of(inner.usage, inner.tool_usage)) is not None:
            responses.add_usage(response, report.usage, report.fields)
        failed = kind == "response.failed" or text_of(inner.status) == "failed"
        responses.end(response, failed=failed)

    def _read_session(self, message: SessionMessage) -> None:
        session = _session_of(message)
        self._responses.model = text_of(session.model) or self._responses.model
        audio = get_object(object_of(session.audio), "input")
        transcription = get_object(audio, "transcription")
        model = (transcription or object_of(session.input_audio_transcription)).get("model")
        if model and isinstance(model, str):
            self._transcription_model = model

    def _read_transcription(self, message: SessionMessage) -> None:
        if (report := _report_of(message.usage)) is not None:
            self._responses.add(self._transcription_model, report.usage, report.fields)

    def _fail(self, message: SessionMessage) -> None:
        """End the responses of a stream with an error; those of Realtime continue after one."""
        if text_of(message.event_id) is None:
            for response in self._responses.of_stream(text_of(message.stream_id)):
                self._responses.end(response, failed=True)


def _report_of(usage: msgspec.Raw, tool_usage: msgspec.Raw = NOTHING) -> UsageReport | None:
    tools = object_of(tool_usage) or None
    return _find_usage(Document(object="response", usage=object_of(usage), tool_usage=tools))


def _session_of(message: SessionMessage) -> _SessionObject:
    try:
        return _decode_session(message.session)
    except UNREADABLE:
        return _NO_SESSION


def _response_of(message: SessionMessage) -> _ResponseObject:
    try:
        return _decode_response(message.response)
    except UNREADABLE:
        return _NO_RESPONSE

"""Model and maximum of tokens that a request names, in its path or the start of its JSON body."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from starlette.types import Message, Receive, Scope

from .models import MAX_MODEL_CHARS

MAX_PEEK_BYTES = 64 * 1024
MAX_PEEK_MESSAGES = 512  # of a body in small pieces
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # never reach a model

_SCOPE_KEY = "tokenpulse_mw.request_model"
_TOKENS_KEY = "tokenpulse_mw.request_max_tokens"
_MAX_PATH_CHARS = 512
_TOKEN_KEYS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
_MAX_KEY_BYTES = 6 * max(map(len, _TOKEN_KEYS))  # each character may be an escape such as \u006d
_MAX_DIGITS = 15  # of a number of tokens
_MAX_VALUE_BYTES = 6 * MAX_MODEL_CHARS  # each character may be an escape such as \u006d
_MAX_STEPS = 8192  # brackets below the top level; more take milliseconds
FEW_STEPS = 256  # those of many requests in one step of the event loop
_STEPS_PER_KEY = 8  # of the object at the top level

_QUOTE, _BRACE, _END, _COLON_CHAR = b'"{}:'
_OPENING = b"{["
_SPACE = re.compile(rb"[ \t\r\n]*")
_FIRST_KEY = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"model"[ \t\r\n]*:[ \t\r\n]*"([!#-\[\]-~]{1,%d})"' % MAX_MODEL_CHARS
)
_TO_KEY = re.compile(rb'[^",}]*')
_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
# Up to the next bracket, or to a string that does not end in the data.
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]+|"[^"\\]*(?:\\.[^"\\]*)*")*', re.DOTALL)

_DIGITS = re.compile(rb"[0-9]*")
_AFTER_NUMBER = b",} \t\r\n"

_BEGIN, _KEY, _COLON, _VALUE, _NUMBER = range(5)

_PATH = re.compile(
    r"/models/([^/]+):[a-zA-Z]+\Z"  # Gemini and Vertex AI
    r"|/(?:deployments|engines)/([^/]+)/"  # Azure
    # Bedrock; the id may be an ARN with a slash.
    r"|/model/([^/]+(?:/[^/]+)?)/(?:converse|converse-stream|invoke|invoke-with-response-stream)\Z"
)
_AMBIGUOUS = re.compile(r"\.\.|[%;\\]|//")  # a server may resolve such a path to another one


class ModelFinder:
    """Incremental search for the string `model` at the top level of a JSON object.

    The first such key decides. With `tokens`, it also searches the rest of the object for the
    numbers that bound the tokens of the response, such as `max_tokens`. The result is the same for
    any division of the bytes into chunks. The search reads only what is needed: it skips other
    values without decoding them, and ends at the model, at the end of the object, at a byte that
    cannot begin a JSON object, such as that of a byte order mark, and after `max_bytes`.

    Args:
        max_bytes: Bytes that are read.
        tokens: True to search for the maximum of tokens too.
        max_steps: Brackets below the top level that are read.

    Attributes:
        model: The model, 1 to 256 characters; None if it was not found.
        max_tokens: The largest of these numbers, at least 1; None if there is none.
        done: True if further bytes cannot change the result.
    """

    __slots__ = (
        "_depth",
        "_digits",
        "_escaped",
        "_in_string",
        "_is_model",
        "_is_tokens",
        "_left",
        "_state",
        "_steps",
        "_text",
        "_tokens",
        "_wants_model",
        "done",
        "max_tokens",
        "model",
    )

    def __init__(
        self,
        max_bytes: int = MAX_PEEK_BYTES,
        *,
        tokens: bool = False,
        max_steps: int = _MAX_STEPS,
    ) -> None:
        self.model: str | None = None
        self.max_tokens: int | None = None
        self._tokens = tokens
        self._wants_model = True
        self._is_tokens = False  # the last key at the top level
        self._digits = b""
        self.done = False
        self._left = max_bytes
        self._steps = max_steps
        self._state = _BEGIN
        self._depth = 0  # of a value at the top level
        self._is_model = False  # the last key at the top level
        self._in_string = False
        self._escaped = False
        self._text: bytearray | None = None  # of a string whose contents are needed

    def feed(self, data: bytes) -> str | None:
        """Read the next bytes of the body, and return the model if it is known."""
        if self.done:
            return self.model
        if (
            self._state == _BEGIN
            and not self._tokens
            and (match := _FIRST_KEY.match(data, 0, self._left))
        ):
            self.model, self.done = match[1].decode("ascii"), True
            return self.model
        data = data[: self._left]
        self._left -= len(data)
        position, size = 0, len(data)
        while position < size and not self.done:
            if self._in_string:
                position = self._read_string(data, position)
            elif self._depth:
                position = self._skip_nested(data, position)
            else:
                position = self._read_token(data, position)
        if not self._left:
            self.done = True
        return self.model

    def _read_token(self, data: bytes, position: int) -> int:
        """Read one token of the object at the top level, and return the position after it."""
        if self._state == _NUMBER:
            return self._read_number(data, position)
        skipped = _TO_KEY if self._state == _KEY else _SPACE
        position = skipped.match(data, position).end()  # type: ignore[union-attr]
        if position == len(data):
            return position
        byte, state = data[position], self._state
        if byte == _QUOTE and state in (_KEY, _VALUE):
            self._in_string = True
            self._text = bytearray() if state == _KEY or self._is_model else None
        elif state == _VALUE and self._is_tokens and 48 <= byte <= 57:
            self._state, self._digits = _NUMBER, b""
            return position
        elif state == _KEY:
            self.done = byte == _END
        elif state == _BEGIN and byte == _BRACE:
            self._state = _KEY
        elif state == _COLON and byte == _COLON_CHAR:
            self._state = _VALUE
        elif state == _VALUE and (self._tokens or not self._is_model):
            self._wants_model = self._wants_model and not self._is_model
            self._state = _KEY  # of what follows the value
            if byte in _OPENING:
                self._depth = 1
        else:
            self.done = True
        return position + 1

    def _read_number(self, data: bytes, position: int) -> int:
        """Read an integer up to its end or to the end of the data; others are not counted."""
        end = _DIGITS.match(data, position).end()  # type: ignore[union-attr]
        self._digits = (self._digits + data[position:end])[: _MAX_DIGITS + 1]
        if end < len(data):
            self._state = _KEY
            if data[end] in _AFTER_NUMBER and len(self._digits) <= _MAX_DIGITS:
                self.max_tokens = max(self.max_tokens or 0, int(self._digits)) or None
        return end

    def _skip_nested(self, data: bytes, position: int) -> int:
        """Skip the rest of an array or object, up to a string that the data do not end."""
        to_bracket, size, depth, steps = _TO_BRACKET.match, len(data), self._depth, self._steps
        while depth and steps > 0:
            position = to_bracket(data, position).end()  # type: ignore[union-attr]
            if position == size:
                break
            byte = data[position]
            position += 1
            if byte == _QUOTE:
                self._in_string = True
                break
            depth += 1 if byte in _OPENING else -1
            steps -= 1
        self._depth = depth
        self._steps = steps
        self.done = steps <= 0
        return position

    def _read_string(self, data: bytes, position: int) -> int:
        """Read a string up to its end or to the end of the data."""
        start = position
        if self._escaped:
            self._escaped = False
            position += 1
        position = _STRING.match(data, position).end()  # type: ignore[union-attr]
        is_closed = False
        if position < len(data):
            is_closed = data[position] == _QUOTE
            self._escaped = not is_closed  # the last byte is a backslash
            position += 1
        if self._text is not None:
            self._text += data[start : position - is_closed]
            if len(self._text) > _MAX_VALUE_BYTES:
                self._text = None
                self.done = self._state == _VALUE and not self._tokens
        if is_closed:
            self._in_string = False
            self._close_string()
        return position

    def _close_string(self) -> None:
        text, self._text = self._text, None
        if self._depth:
            return
        if self._state == _KEY:
            self._steps -= _STEPS_PER_KEY
            self.done = self._steps <= 0
            self._state = _COLON
            is_short = text is not None and len(text) <= _MAX_KEY_BYTES
            key = _decode(text) if is_short else None
            self._is_model = self._wants_model and key == "model"
            self._is_tokens = self._tokens and key in _TOKEN_KEYS
        else:
            self._state = _KEY
            if self._is_model:
                self.model = _checked(_decode(text))
                self._wants_model, self.done = False, not self._tokens


def _decode(text: bytes | bytearray | None) -> str | None:
    """Return the string with the contents `text`; None if it is invalid."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(b'"%b"' % bytes(text), type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class Requested(NamedTuple):
    """Model and maximum of tokens in the body of a request.

    Attributes:
        model: Model in the body, or None.
        max_tokens: Maximum of tokens in the body, or None.
    """

    model: str | None
    max_tokens: int | None


class _Document(msgspec.Struct, gc=False):
    model: Any = None


_decode_document = msgspec.json.Decoder(_Document).decode


def find_model(body: Sequence[bytes], *, max_steps: int = _MAX_STEPS) -> str | None:
    """Return the model in the parts of a body, or None, as `ModelFinder` does.

    A body in one part is decoded if it has the key at most once, which is ten times as fast.
    """
    if len(body) == 1:
        [document] = body
        # Letters of the key may be escaped: m is \u006d.
        if len(document) <= MAX_PEEK_BYTES and b"\\u006" not in document:
            keys = document.count(b'"model"')
            if keys == 0:
                return None
            if keys == 1:
                with suppress(ValueError, RecursionError):  # not a whole JSON document
                    return _checked(_decode_document(document).model)
    finder = ModelFinder(max_steps=max_steps)
    for part in body:
        finder.feed(part)
    return finder.model


class _WholeDocument(_Document, gc=False):
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    maxOutputTokens: Any = None  # noqa: N815 - of Gemini

    def requested(self) -> Requested:
        """Return what `ModelFinder` finds in the same document."""
        values = (getattr(self, name) for name in _TOKEN_KEYS)
        tokens = [value for value in values if type(value) is int and 0 < value < 10**_MAX_DIGITS]
        return Requested(_checked(self.model), max(tokens, default=None))


_decode_whole_document = msgspec.json.Decoder(_WholeDocument).decode
_UNIQUE = [b'"%b"' % name.encode() for name in ("model", *_TOKEN_KEYS)]


def find_request(body: Sequence[bytes]) -> Requested:
    """Return the model and the maximum of tokens in the parts of a body, as `ModelFinder` does.

    A body in one part is decoded if it has each key at most once.
    """
    if len(body) == 1:
        [document] = body
        if (
            len(document) <= MAX_PEEK_BYTES
            and b"\\u00" not in document  # letters of a key may be escaped
            and all(document.count(key) <= 1 for key in _UNIQUE)
        ):
            with suppress(ValueError, RecursionError):  # not a whole JSON document
                return _decode_whole_document(document).requested()
    finder = ModelFinder(tokens=True)
    for part in body:
        finder.feed(part)
    return Requested(finder.model, finder.max_tokens)


def _checked(model: object) -> str | None:
    """Return `model` if it can be the name of a model."""
    return model if isinstance(model, str) and 0 < len(model) <= MAX_MODEL_CHARS else None


async def peek_request(receive: Receive, *, tokens: bool = False) -> tuple[Requested, Receive]:
    """Return what the body of a request names, and a `receive` that begins with the same body.

    Messages are read until the model is found, 64 KiB are read, or the body ends; with `tokens`,
    the search goes on after the model. The returned `receive` first returns these messages
    unchanged, also a disconnect among them.
    """
    message = await receive()
    messages: deque[Message] = deque([message])
    if message["type"] == "http.request" and not message.get("more_body"):
        body = [_body_of(message)]
        found = find_request(body) if tokens else Requested(find_model(body), None)
    else:
        finder = ModelFinder(tokens=tokens)
        while message["type"] == "http.request":
            finder.feed(_body_of(message))
            if finder.done or not message.get("more_body") or len(messages) >= MAX_PEEK_MESSAGES:
                break
            message = await receive()
            messages.append(message)
        found = Requested(finder.model, finder.max_tokens)

    async def replay() -> Message:
        return messages.popleft() if messages else await receive()

    return found, replay


def _body_of(message: Message) -> bytes:
    """Return the body of a message; an invalid one is left to the application."""
    body = message.get("body")
    return bytes(body) if isinstance(body, bytes | bytearray | memoryview) else b""


async def read_request_model(
    scope: Scope, receive: Receive, *, tokens: bool = False
) -> tuple[str | None, Receive]:
    """Read the model in the body of a request, for `requested_model`.

    The body is read if the method can reach a model, and the path does not name it.

    Args:
        scope: The request.
        receive: Its messages.
        tokens: True to read the maximum of tokens too, for `requested_tokens`.

    Returns:
        The model, or None; and the `receive` to use instead.
    """
    if (_TOKENS_KEY if tokens else _SCOPE_KEY) not in scope:
        found = Requested(None, None)
        if scope["method"] not in SAFE_METHODS and (tokens or model_of_path(scope["path"]) is None):
            found, receive = await peek_request(receive, tokens=tokens)
        scope[_SCOPE_KEY] = found.model
        if tokens:
            scope[_TOKENS_KEY] = found.max_tokens
    return scope[_SCOPE_KEY], receive


def requested_model(scope: Scope) -> str | None:
    """Return the model that a request names in its path, or in a body that was read; or None."""
    return model_of_path(scope["path"]) or scope.get(_SCOPE_KEY)


def requested_tokens(scope: Scope) -> int | None:
    """Return the most tokens that a request allows in its response, if its body was read."""
    tokens: int | None = scope.get(_TOKENS_KEY)
    return tokens


@lru_cache(maxsize=4096)
def model_of_path(path: str) -> str | None:
    """Return the model in a path of Gemini, Vertex AI, Azure or Bedrock, or None.

    Examples: `/v1beta/models/gemini-2.0-flash:generateContent`,
    `/openai/deployments/gpt-5/chat/completions`, `/model/amazon.nova-pro-v1:0/converse`.
    """
    if len(path) > _MAX_PATH_CHARS or _AMBIGUOUS.search(path):
        return None
    match = _PATH.search(path)
    return match[match.lastindex or 0][:MAX_MODEL_CHARS] if match else None

"""Model that a request names in its path or its body."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Message

from tokenpulse_mw.exchange.request_model import (
    MAX_PEEK_BYTES,
    MAX_PEEK_MESSAGES,
    ModelFinder,
    find_model,
    find_request,
    model_of_path,
    peek_request,
)

pytestmark = pytest.mark.anyio

texts = st.text(max_size=12) | st.sampled_from(["model", '"model":"x"', "\\", '"', "{", "]"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
members = st.lists(st.tuples(texts, values), max_size=6)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, str | None]:
    """Return a JSON object, and the string under the first `model` at its top level."""
    before = [(key, value) for key, value in draw(members) if key != "model"]
    model, after = draw(st.none() | st.text(min_size=1, max_size=20)), draw(members)
    pairs = [*before, *([] if model is None else [("model", model)]), *after]
    is_ascii, space = draw(st.booleans()), draw(st.sampled_from(["", " ", "\r\n\t"]))
    text = ",".join(
        f"{space}{json.dumps(key, ensure_ascii=is_ascii)}{space}:{space}"
        f"{json.dumps(value, ensure_ascii=is_ascii)}{space}"
        for key, value in pairs
    )
    first = next((value for key, value in pairs if key == "model"), None)
    found = first if isinstance(first, str) and first else None
    return f"{space}{{{text}}}".encode("utf-8", "surrogatepass"), found


def pieces(body: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return `body` in pieces that end at `cuts`."""
    ends = sorted({cut % (len(body) + 1) for cut in cuts} | {len(body)})
    starts = [0, *ends]
    return [body[start:end] for start, end in zip(starts, ends, strict=False)]


cuts_of_bodies = st.lists(st.integers(0, 2000), max_size=30)


@given(body=bodies(), cuts=cuts_of_bodies)
def test_first_model_of_an_object_is_found_in_any_chunks(
    body: tuple[bytes, str | None], cuts: Sequence[int]
) -> None:
    """Nested keys, strings that look like keys and escapes are not mistaken for it."""
    text, model = body

    assert find_model(pieces(text, cuts)) == model
    assert find_model([text]) == model


@given(body=bodies())
@example(body=(b'{"a":1}{"model":"gpt-5"}', None))
def test_decoded_body_has_the_result_of_the_search(body: tuple[bytes, str | None]) -> None:
    """A body in one part is decoded where that cannot make a difference."""
    finder = ModelFinder()

    assert finder.feed(body[0]) == find_model([body[0]])


@given(body=st.binary(max_size=80) | st.text('{}[]":,\\ \nmodel\ufeff').map(str.encode))
@example(body=b'{"model":"a","model":"b"}')
@example(body=b'{"a":[[],{}],"model":"gpt-5"}')
def test_any_bytes_have_one_result_in_any_chunks(body: bytes) -> None:
    """The result of one byte at a time is that of all bytes at once."""
    assert find_model([bytes([byte]) for byte in body]) == find_model([body])


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model":"gpt-5","messages":[]}', "gpt-5"),
        (b'{"messages":[{"model":"a"}],"tools":{"model":"b"},"model":"gpt-5"}', "gpt-5"),
        (rb'{"\u006dodel":"gp\u0074-5"}', "gpt-5"),
        (b'{"model":"first","model":"second"}', "first"),
        (b'{"model":null,"model":"gpt-5"}', None),
        (b'{"model":["gpt-5"]}', None),
        (b'{"model":""}', None),
        (b'{"model":"%b"}' % (b"m" * 256), "m" * 256),
        (b'{"model":"%b"}' % (b"m" * 257), None),
        (b'{"model":"%b"}' % (b"m" * 5000), None),
        (rb'{"model":"%b"}' % (rb"\u006d" * 256), "m" * 256),
        (rb'{"model":"\ud800"}', None),
        (b'{"model":"\xff"}', None),
        (b'{"model":"a\nb"}', None),
        (b'["model","gpt-5"]', None),
        (b'{"input":"model"}', None),
        (b'{"a":1}{"model":"gpt-5"}', None),
        (b'{"model" "gpt-5"}', None),
        (b'\xef\xbb\xbf{"model":"gpt-5"}', None),
        ('{"model":"gpt-5"}'.encode("utf-16"), None),
        ('{"model":"gpt-5"}'.encode("utf-16-le"), None),
        (b"--boundary\r\n", None),
        (b"", None),
    ],
)
def test_only_a_string_under_model_is_the_model(body: bytes, model: str | None) -> None:
    """Other values and other documents have no model."""
    assert find_model([body]) == model
    assert ModelFinder().feed(body) == model


@pytest.mark.parametrize("ends", [True, False])
def test_deep_or_incomplete_body_is_searched(ends: bool) -> None:
    """A body that cannot be decoded may name its model before."""
    body = b'{"a":' + b"[" * 5000 + (b"]" * 3000 if ends else b"")

    assert find_model([b'{"a":1,"model":"gpt-5",' + body[1:]]) == "gpt-5"
    assert find_model([body + b',"model":"gpt-5"}']) is None


def test_search_ends_as_soon_as_the_result_is_known() -> None:
    """The rest of the body is not needed."""
    finder = ModelFinder()

    assert finder.feed(b'{"stream":true,"model":"gpt-5"') == "gpt-5"
    assert finder.done
    assert finder.feed(b',"model":"other"}') == "gpt-5"


@pytest.mark.parametrize("size", [1000, 10**6])
def test_search_ends_after_its_number_of_bytes(size: int) -> None:
    """A model behind it is not found, in any chunks."""
    body = b'{"prompt":"%b","model":"gpt-5"}' % (b"x" * 980)
    finder = ModelFinder(max_bytes=1000)

    for start in range(0, len(body), size):
        finder.feed(body[start : start + size])

    assert finder.done
    assert finder.model is None


@pytest.mark.parametrize("part", [b"[],", b"[", b'{"":', b'[""],'])
def test_search_gives_up_on_structure_without_end(part: bytes) -> None:
    """Thousands of brackets take too long; the result is that in any chunks."""
    body = b'{"a":[' + part * 10_000
    finder = ModelFinder(max_bytes=10**9)

    finder.feed(body)

    assert finder.done
    assert finder.model is None


def test_search_gives_up_on_too_many_keys() -> None:
    """A request to a model has few keys at its top level."""
    body = b"{" + b'"":1,' * 2000 + b'"model":"gpt-5"}'

    assert ModelFinder().feed(body) is None


TOKEN_KEYS = ["max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"]


@st.composite
def bodies_with_tokens(draw: st.DrawFn) -> tuple[bytes, str | None, int | None]:
    """Return a JSON object, its model, and the largest positive integer under a key of tokens."""
    numbers = st.integers(-5, 10**17) | st.integers(0, 200_000) | values
    pairs = draw(
        st.lists(
            st.tuples(texts, values)
            | st.tuples(st.sampled_from(TOKEN_KEYS), numbers)
            | st.tuples(st.just("model"), st.text(min_size=1, max_size=9) | values),
            max_size=8,
        )
    )
    space = draw(st.sampled_from(["", " ", "\r\n\t"]))
    text = ",".join(
        f"{space}{json.dumps(key)}{space}:{space}{json.dumps(value)}{space}" for key, value in pairs
    )
    model = next((value for key, value in pairs if key == "model"), None)
    tokens = [value for key, value in pairs if key in TOKEN_KEYS and type(value) is int]
    return (
        f"{{{text}}}".encode(),
        model if isinstance(model, str) and model else None,
        max((number for number in tokens if 0 < number < 10**15), default=None),
    )


@given(body=bodies_with_tokens(), cuts=cuts_of_bodies)
def test_largest_maximum_of_tokens_is_found_in_any_chunks(
    body: tuple[bytes, str | None, int | None], cuts: Sequence[int]
) -> None:
    """It may precede or follow the model, and be named and repeated in any way."""
    text, model, tokens = body

    assert find_request(pieces(text, cuts)) == (model, tokens)
    assert find_request([text]) == (model, tokens)


@given(body=st.binary(max_size=80) | st.text('{}[]":,\\ \n0123.emodlax_tkns').map(str.encode))
@example(body=b'{"max_tokens":1}{"max_tokens":2}')
@example(body=b'{"model":"a","model":"b","max_tokens":-0}')
@example(body=b'{"max_tokens":007,"model":"\xff"}')
def test_any_bytes_have_one_request_in_any_chunks(body: bytes) -> None:
    """The model is that of the search for the model alone."""
    found = find_request([bytes([byte]) for byte in body])

    assert find_request([body]) == found
    assert find_model([body]) == found.model


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"model":"gpt-5","messages":[{"max_tokens":9}],"max_tokens":16}', 16),
        (b'{"max_tokens":1,"max_completion_tokens":4096}', 4096),
        (b'{"max_tokens":1,"max_tokens":4096,"max_tokens":2}', 4096),
        (rb'{"max\u005ftokens":16}', 16),
        (b'{"max_tokens":16', None),
        (b'{"max_tokens":16 ', 16),
        (b'{"max_tokens":"16"}', None),
        (b'{"max_tokens":1e3}', None),
        (b'{"max_tokens":16.0}', None),
        (b'{"max_tokens":0}', None),
        (b'{"max_tokens":-16}', None),
        (b'{"max_tokens":true}', None),
        (b'{"max_tokens":999999999999999}', 999_999_999_999_999),
        (b'{"max_tokens":9999999999999999}', None),
        (b'{"max_tokens":%b}' % (b"9" * 5000), None),
        (b'{"generationConfig":{"maxOutputTokens":16}}', None),
        (b'{"model":{"max_tokens":5},"max_tokens":16}', 16),
        (b'{"model":"%b","max_tokens":16}' % (b"m" * 5000), 16),
    ],
)
def test_only_an_integer_at_the_top_level_is_a_maximum(body: bytes, tokens: int | None) -> None:
    """A number that is not an integer above 0, or has no end, is not one."""
    assert find_request([body]).max_tokens == tokens
    assert find_request([body[:7], body[7:]]).max_tokens == tokens


class Client:
    """Client that sends messages; waiting for more than these is an error."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)

    async def receive(self) -> Message:
        """Return the next message."""
        return self.messages.pop(0)


def body_message(body: bytes, *, more: bool = True) -> Message:
    """Return a part of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


DISCONNECT: Message = {"type": "http.disconnect"}


@given(
    chunks=st.lists(st.binary(max_size=20) | bodies().map(lambda body: body[0]), max_size=8),
    ends=st.sampled_from(["body", "disconnect"]),
)
async def test_peek_replays_the_same_messages(chunks: list[bytes], ends: str) -> None:
    """The application receives what it would receive without the peek."""
    messages = [body_message(chunk) for chunk in chunks]
    if ends == "body":
        messages.append(body_message(b"", more=False))
    messages += [DISCONNECT, DISCONNECT]

    (model, _), receive = await peek_request(Client(*messages).receive)

    received = [await receive() for _ in messages]
    assert all(before is after for before, after in zip(messages, received, strict=True))
    assert model == find_model(chunks)


@pytest.mark.parametrize(
    ("messages", "model"),
    [
        ([body_message(b'{"model":"gpt-5",')], "gpt-5"),
        ([body_message(b'{"mod'), body_message(b'el":"gpt-5"')], "gpt-5"),
        ([body_message(b"[")], None),
        ([body_message(b'{"a":1', more=False)], None),
        ([{"type": "http.request"}], None),
        ([{"type": "http.request", "body": "text"}], None),
        ([body_message(b'{"a":"'), body_message(b"x" * MAX_PEEK_BYTES)], None),
        ([DISCONNECT], None),
        ([body_message(b'{"a":1,'), DISCONNECT], None),
        ([body_message(b"")] * MAX_PEEK_MESSAGES, None),
    ],
)
async def test_peek_waits_for_no_more_than_it_needs(
    messages: list[Message], model: str | None
) -> None:
    """It ends at the model, at the end of the body, at 64 KiB, at 512 pieces, at a disconnect."""
    client = Client(*messages)

    assert (await peek_request(client.receive))[0] == (model, None)
    assert client.messages == []


async def test_peek_of_the_tokens_waits_for_no_more_than_64_kib() -> None:
    """It goes on after the model, and ends at the end of the object or of the first 64 KiB."""
    start = b'{"model":"gpt-5","prompt":"'
    for rest, tokens in ((b'","max_tokens":16}', 16), (b"x" * MAX_PEEK_BYTES, None)):
        messages = [body_message(start), body_message(rest)]
        client = Client(*messages)

        found, receive = await peek_request(client.receive, tokens=True)

        assert found == ("gpt-5", tokens)
        assert client.messages == []
        assert [await receive(), await receive()] == messages


async def test_peek_of_a_whole_body_finds_the_tokens() -> None:
    """The body is in one message, as of most servers."""
    client = Client(body_message(b'{"max_tokens":16,"model":"gpt-5"}', more=False))

    assert (await peek_request(client.receive, tokens=True))[0] == ("gpt-5", 16)


ARN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-pro-v1:0"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1beta/models/gemini-2.0-flash:generateContent", "gemini-2.0-flash"),
        (
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude-opus-4@20250514:rawPredict",
            "claude-opus-4@20250514",
        ),
        ("/openai/deployments/prod-chat/chat/completions", "prod-chat"),
        ("/v1/engines/davinci/completions", "davinci"),
        ("/model/amazon.nova-pro-v1:0/converse", "amazon.nova-pro-v1:0"),
        (f"/bedrock/model/{ARN}/invoke-with-response-stream", ARN),
        ("/v1/chat/completions", None),
        ("/v1/models/gpt-5", None),
        ("/v1/models", None),
        ("/model/x/../y/converse", None),
        ("/openai/deployments/cheap/../../v1/chat/completions", None),
        ("/openai/deployments/cheap/%2e%2e/chat", None),
        ("/models/" + "x" * 600 + ":generateContent", None),
    ],
)
def test_paths_of_vendors_name_the_model(path: str, model: str | None) -> None:
    """A path that a server could resolve to another one names none."""
    assert model_of_path(path) == model

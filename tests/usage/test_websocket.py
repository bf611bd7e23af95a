"""Meter of WebSockets: usage of every response of a session, and frames that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import SessionResponse, TokenUsage, WebSocketMeter
from tokenpulse_mw.usage.bounds import MAX_DOCUMENT_BYTES
from tokenpulse_mw.usage.session import MAX_OPEN_RESPONSES
from tokenpulse_mw.usage.websocket import MAX_SETUP_BYTES

from ..support.clock import FakeClock
from .sessions import (
    LIVE,
    PCM,
    REALTIME,
    RESPONSES,
    SESSIONS,
    TURN_COMPLETE,
    Frame,
    Outcome,
    Session,
    audio_delta,
    binary,
    live_usage,
    model_turn,
    realtime,
    realtime_response,
    realtime_session,
    realtime_usage,
    response,
    responses_usage,
    text,
    text_delta,
)

every_session = pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)
AUDIO = bytes(range(256))
# Frames that belong to no message of a vendor.
NOISE: tuple[Frame, ...] = (
    AUDIO,
    b"",
    "",
    "ping",
    b"\x1f\x8b\x08\x00",
    "[1]",
    "{}",
    '{"a":',
    "null",
)


def meter_of(*frames: Frame, client: Iterable[Frame] = (), **options: Any) -> WebSocketMeter:
    """Return a meter that has read these frames."""
    meter = WebSocketMeter(**{"clock": FakeClock(), **options})
    for frame in client:
        meter.feed_client(frame)
    for frame in frames:
        meter.feed(frame)
    return meter


def ended(meter: WebSocketMeter, frames: Iterable[Frame]) -> list[SessionResponse]:
    """Return the responses that end within these frames."""
    return [item for frame in frames for item in meter.feed(frame) or ()]


def outcomes(responses: Iterable[SessionResponse]) -> list[Outcome]:
    """Return model, usage and source of each response."""
    return [(item.model, item.usage, item.source) for item in responses]


def converted(frame: Frame, *, to_bytes: bool) -> Frame:
    """Return the same frame as text or as bytes."""
    if to_bytes:
        return frame.encode() if isinstance(frame, str) else frame
    return frame if isinstance(frame, str) else frame.decode()


def reordered(frame: Frame) -> str:
    """Return the same message with all keys in the order of the alphabet."""
    return json.dumps(json.loads(frame), sort_keys=True)


@every_session
def test_every_response_of_a_session_is_counted(session: Session) -> None:
    """Each response counts once, to the token, when it ends."""
    meter = meter_of(client=session.client)

    assert outcomes(ended(meter, session.server)) == session.responses
    assert meter.finish() == []
    assert meter.take_unreadable() == 0


@every_session
@pytest.mark.parametrize("to_bytes", [True, False])
def test_text_and_binary_frames_are_read_alike(session: Session, to_bytes: bool) -> None:
    """A message counts the same in a text frame and in a binary one."""
    meter = meter_of(client=[converted(frame, to_bytes=to_bytes) for frame in session.client])
    frames = [converted(frame, to_bytes=to_bytes) for frame in session.server]

    assert outcomes(ended(meter, frames)) == session.responses


@every_session
def test_order_of_keys_is_irrelevant(session: Session) -> None:
    """A proxy may write the keys of a message in another order."""
    meter = meter_of(client=[reordered(frame) for frame in session.client])

    assert outcomes(ended(meter, map(reordered, session.server))) == session.responses


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_id_of_an_event_may_precede_its_type(separators: tuple[str, str]) -> None:
    """OpenAI documents the messages of Realtime with the id of the event first."""
    frames = []
    for frame in REALTIME.server:
        message = json.loads(frame)
        message = {"event_id": message.pop("event_id"), **message}
        frames.append(json.dumps(message, separators=separators))

    assert outcomes(ended(meter_of(), frames)) == REALTIME.responses


def sequences_of_frames() -> st.SearchStrategy[list[Frame]]:
    """Return parts of the messages of all sessions, other JSON, and any text and bytes."""
    messages = [frame for session in SESSIONS.values() for frame in session.server]
    names = st.sampled_from(
        ["type", "response", "id", "usage", "usageMetadata", "serverContent", "turnComplete"]
    )
    types = st.sampled_from(["response.created", "response.done", "error", "session.created"])
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=3),
        max_leaves=9,
    )
    objects = st.dictionaries(names, values)
    typed = st.builds(lambda kind, more: {**more, "type": kind}, types, objects)
    cut = st.builds(lambda frame, at: frame[:at], st.sampled_from(messages), st.integers(0, 400))
    return st.lists(
        st.one_of(
            st.sampled_from(messages),
            cut,
            st.builds(json.dumps, typed | objects),
            st.text(),
            st.binary(),
        ),
        max_size=8,
    )


@given(sequences_of_frames())
def test_any_frames_raise_nothing_and_end_each_response_once(frames: list[Frame]) -> None:
    """No frame of a server raises, and the counts are plausible."""
    meter = meter_of()

    responses = [*ended(meter, frames), *meter.finish()]

    assert len({id(item) for item in responses}) == len(responses) <= len(frames)
    for item in responses:
        assert item.usage is None or item.usage.is_plausible
    assert meter.take_unreadable() <= 2 * len(frames)
    assert meter.finish() == []


@every_session
@given(data=st.data())
def test_frames_in_between_change_nothing(session: Session, data: st.DataObject) -> None:
    """Audio, keep-alives and unreadable frames do not change the usage."""
    meter = meter_of(client=session.client)
    frames: list[Frame] = []
    for frame in session.server:
        frames += data.draw(st.lists(st.sampled_from(NOISE), max_size=2))
        frames.append(frame)

    assert outcomes(ended(meter, frames)) == session.responses
    assert meter.take_unreadable() == 0


@every_session
@given(data=st.data())
def test_cut_session_counts_no_more_than_the_whole_one(
    session: Session, data: st.DataObject
) -> None:
    """Responses in progress at the end of the connection are partial or missing."""
    end = data.draw(st.integers(0, len(session.server)))
    meter = meter_of(client=session.client)

    complete = ended(meter, session.server[:end])
    cut = meter.finish()

    assert outcomes(complete) == session.responses[: len(complete)]
    assert len(complete) + len(cut) <= len(session.responses)
    assert meter.finish() == []
    for item in cut:
        assert item.source == ("partial" if item.usage is not None else "missing") or item.complete


@every_session
@given(data=st.data())
def test_message_in_two_frames_is_unreadable_or_without_usage(
    session: Session, data: st.DataObject
) -> None:
    """A message that a proxy splits raises nothing, and loses no usage silently."""
    index = data.draw(st.integers(0, len(session.server) - 1))
    whole = session.server[index]
    at = data.draw(st.integers(1, len(whole) - 1))
    meter = meter_of(client=session.client)

    split = [*session.server[:index], whole[:at], whole[at:], *session.server[index + 1 :]]
    counted = outcomes([*ended(meter, split), *meter.finish()])

    lost = [item for item in session.responses if item[1] and item not in counted]
    assert not lost or meter.take_unreadable() > 0


@given(
    st.permutations(range(4)),
    st.permutations(range(4)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=4, max_size=4),
)
def test_concurrent_responses_are_told_apart_by_id(
    begins: Sequence[int], ends: Sequence[int], counts: Sequence[tuple[int, int]]
) -> None:
    """Responses may begin and end in any order."""
    meter = meter_of(realtime_session())
    for number in begins:
        meter.feed(realtime("response.created", response=realtime_response(f"resp_{number}")))
        meter.feed(audio_delta(f"resp_{number}"))

    responses = ended(
        meter,
        [
            realtime(
                "response.done",
                response=realtime_response(
                    f"resp_{number}",
                    "completed",
                    realtime_usage(read=counts[number][0], written=counts[number][1]),
                ),
            )
            for number in ends
        ],
    )

    assert [item.id for item in responses] == [f"resp_{number}" for number in ends]
    assert [item.usage for item in responses] == [TokenUsage(*counts[number]) for number in ends]


def test_times_of_a_response_are_measured() -> None:
    """A response lasts from its first message to its last; its first delta is the first output."""
    clock = FakeClock()
    meter = meter_of(clock=clock)
    frames = (
        response("response.created", "resp_1"),
        text({"type": "response.output_item.added"}),
        text_delta("a"),
        text_delta("b"),
        response("response.completed", "resp_1"),
    )
    responses: list[SessionResponse] = []
    for frame in frames:
        responses += meter.feed(frame) or ()
        clock.advance(1)

    [item] = responses
    assert item.first_output is not None
    assert (item.first_output - item.started, item.ended - item.started) == (2, 4)


def test_first_output_belongs_to_the_response_of_its_stream() -> None:
    """A delta without an id of its response is the output of its stream."""
    clock = FakeClock()
    meter = meter_of(
        response("response.created", "resp_1", stream_id="a"),
        response("response.created", "resp_2", stream_id="b"),
        clock=clock,
    )
    clock.advance(1)
    meter.feed(text_delta("two", stream_id="b"))
    clock.advance(1)
    meter.feed(text_delta("one", stream_id="a"))
    meter.feed(text_delta("none", stream_id="c"))

    first, second = meter.finish()
    assert (first.first_output, second.first_output) == (first.started + 2, second.started + 1)


@pytest.mark.parametrize(
    "session",
    [
        {"model": "m", "instructions": "a,b," * 9000, "tools": [{"name": "f"}] * 900},
        {"instructions": "[{" * 9000, "model": "m"},
    ],
)
def test_model_of_a_session_with_long_instructions_is_known(session: dict[str, Any]) -> None:
    """Of a session only the fields in use are decoded, in any size."""
    meter = meter_of(realtime("session.created", session=session))
    done = realtime("response.done", response=realtime_response("resp_1", "completed"))

    assert [item.model for item in ended(meter, [done])] == ["m"]


def test_model_of_transcriptions_may_be_that_of_the_beta() -> None:
    """Older sessions name it in another field; an update without it changes nothing."""
    session = {"model": "m", "input_audio_transcription": {"model": "whisper-2"}}
    meter = meter_of(
        realtime("session.created", session=session), realtime("session.updated", session={})
    )
    usage = {"type": "tokens", "input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    kind = "conversation.item.input_audio_transcription.completed"

    assert outcomes(ended(meter, [realtime(kind, usage=usage)])) == [
        ("whisper-2", TokenUsage(1, 2), "reported")
    ]


def test_response_without_a_beginning_is_counted() -> None:
    """The end of a response counts even if its first message was not read."""
    frame = response("response.completed", "resp_9", responses_usage(read=3, written=4))

    assert outcomes(ended(meter_of(), [frame])) == [("gpt-5.3-codex", TokenUsage(3, 4), "reported")]


def test_end_without_an_id_is_that_of_the_only_response() -> None:
    """A response that is alone in its stream needs no id."""
    meter = meter_of(realtime("response.created", response=realtime_response("resp_1")))
    done = {"status": "completed", "usage": realtime_usage(read=3, written=4)}

    responses = ended(meter, [realtime("response.done", response=done)])

    assert [(item.id, item.usage) for item in responses] == [("resp_1", TokenUsage(3, 4))]
    assert meter.finish() == []


def test_end_without_an_id_among_several_is_another_response() -> None:
    """Usage is never given to the wrong one of several responses."""
    meter = meter_of(
        realtime("response.created", response=realtime_response("resp_1")),
        realtime("response.created", response=realtime_response("resp_2")),
    )
    done = {"status": "completed", "usage": realtime_usage(read=3, written=4)}

    responses = ended(meter, [realtime("response.done", response=done)])

    assert [(item.id, item.usage) for item in responses] == [("", TokenUsage(3, 4))]
    assert [item.id for item in meter.finish()] == ["resp_1", "resp_2"]


def test_repeated_beginning_is_the_same_response() -> None:
    """A response begins once."""
    created = response("response.created", "resp_1")

    assert len(meter_of(created, created).finish()) == 1


@pytest.mark.parametrize(
    ("frame", "failed"),
    [
        (response("response.failed", "resp_1"), True),
        (realtime("response.done", response=realtime_response("resp_1", "failed")), True),
        (realtime("response.done", response=realtime_response("resp_1", "incomplete")), False),
        (response("response.incomplete", "resp_1"), False),
        (text({"type": "error", "error": {"code": "server_error"}}), True),
    ],
)
def test_failed_response_is_marked(frame: Frame, failed: bool) -> None:
    """A response fails by its status, or by an error of OpenAI Responses."""
    [item] = ended(meter_of(response("response.created", "resp_1")), [frame])

    assert (item.failed, item.complete, item.source) == (failed, True, "missing")


def test_usage_of_a_failed_response_is_reported() -> None:
    """The message that reports the failure also has the final usage."""
    frame = response("response.failed", "resp_1", responses_usage(read=3, written=4))

    [item] = ended(meter_of(), [frame])

    assert (item.usage, item.source, item.failed) == (TokenUsage(3, 4), "reported", True)


def test_too_many_open_responses_end_the_oldest_as_cut() -> None:
    """The number of responses in progress is bounded."""
    meter = meter_of()
    names = [f"resp_{number}" for number in range(MAX_OPEN_RESPONSES + 3)]

    responses = ended(meter, [response("response.created", name) for name in names])

    assert [(item.id, item.source) for item in responses] == [
        (name, "missing") for name in names[:3]
    ]
    assert len(meter.finish()) == MAX_OPEN_RESPONSES


def test_tokens_of_tools_are_counted() -> None:
    """Models that tools call have a usage of their own in the response."""
    inner = {
        "id": "resp_1",
        "usage": responses_usage(read=3, written=4),
        "tool_usage": {"image_gen": {"input_tokens": 10, "output_tokens": 20}},
    }

    [item] = ended(meter_of(), [text({"type": "response.completed", "response": inner})])

    assert item.usage == TokenUsage(13, 24)


def test_cost_that_the_vendor_reports_is_kept() -> None:
    """A usage may have its cost in US dollars; an implausible one is ignored."""
    usage = responses_usage(read=3, written=4)
    frames = [
        response("response.completed", "resp_1", {**usage, "cost": 0.25}),
        response("response.completed", "resp_2", {**usage, "cost": 10**9}),
    ]
    meter = meter_of()

    assert [item.cost_nanos for item in ended(meter, frames)] == [250_000_000, None]
    assert meter.take_unreadable() == 1


@pytest.mark.parametrize(
    "frames",
    [
        [response("response.completed", "resp_1", responses_usage(read=10**12, written=1))],
        [model_turn(usageMetadata=live_usage(10**12, 1)), TURN_COMPLETE],
    ],
)
def test_implausible_usage_changes_no_count(frames: Sequence[Frame]) -> None:
    """A count that no response can have is unreadable, and the usage is doubtful."""
    meter = meter_of()

    [item] = [*ended(meter, frames), *meter.finish()]

    assert (item.usage, item.source, item.doubtful) == (None, "missing", True)
    assert meter.take_unreadable() == 1
    assert meter.take_unreadable() == 0


def test_implausible_usage_within_a_turn_keeps_the_earlier_one() -> None:
    """The usage of the generations before is not lost, and it is partial."""
    meter = meter_of(
        model_turn(usageMetadata=live_usage(40, 3)),
        model_turn(usageMetadata=live_usage(10**12, 1)),
    )

    [item] = ended(meter, [TURN_COMPLETE])

    assert item.usage == TokenUsage(40, 3, audio_input=5, audio_output=3)
    assert item.source == "partial"


def test_cut_turn_of_a_live_session_is_partial() -> None:
    """A turn whose usage is not the last one counts as partial."""
    meter = meter_of(*LIVE.server[:1], model_turn(usageMetadata=live_usage(40, 3)))

    assert outcomes(meter.finish()) == [
        (None, TokenUsage(40, 3, audio_input=5, audio_output=3), "partial")
    ]


def test_completed_turn_without_usage_is_missing() -> None:
    """A turn that the vendor has completed is not cut, even if its usage never arrives."""
    meter = meter_of(model_turn(), TURN_COMPLETE)

    [item] = meter.finish()

    assert (item.complete, item.source) == (True, "missing")


@pytest.mark.parametrize(
    "setup",
    [
        {"model": "models/gemini-live-2.5-flash"},
        {"model": "projects/p/locations/l/publishers/google/models/gemini-live-2.5-flash"},
        {"model": "gemini-live-2.5-flash"},
        {"generationConfig": {}, "model": "models/gemini-live-2.5-flash"},
        {"model": "models/gemini-live-2.5-flash", "systemInstruction": "x" * MAX_SETUP_BYTES},
    ],
)
@pytest.mark.parametrize("to_bytes", [True, False])
def test_model_of_a_live_session_is_that_of_its_setup(
    setup: dict[str, Any],
    to_bytes: bool,
) -> None:
    """Only the client names the model, in the setup."""
    frame = converted(text({"setup": setup}), to_bytes=to_bytes)
    meter = meter_of(*LIVE.server[:2], client=[frame])

    assert not meter.awaits_setup
    assert [item.model for item in meter.finish()] == ["gemini-live-2.5-flash"]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [text({"setup": {"model": None}})],
        [text({"setup": None})],
        [text({"setup": {"generationConfig": "x" * MAX_SETUP_BYTES, "model": "models/late"}})],
        ['{"setup": '],
        [AUDIO] * 4 + [text({"setup": {"model": "models/late"}})],
    ],
)
def test_model_of_a_live_session_without_setup_is_unknown(frames: Sequence[Frame]) -> None:
    """Few frames of the client are searched, and 64 KiB of the setup."""
    meter = WebSocketMeter(clock=FakeClock())
    for frame in frames:
        if meter.awaits_setup:
            meter.feed_client(frame)

    ended(meter, LIVE.server[:2])
    assert [item.model for item in meter.finish()] == [None]


@pytest.mark.parametrize(
    "frame",
    [
        response("response.completed", "resp_1", responses_usage(read=1, written=2))[:-9],
        '{"type":"response.done","response":' + "[" * 5000,
        '{"type":"response.done"',
        'ser","usage":{"input_tokens":1}}}',
        '{"a":1,"usage":{"input_tokens":1}',
        '{"usageMetadata":{"promptTokenCount":5}',
    ],
)
def test_incomplete_message_with_usage_is_unreadable(frame: Frame) -> None:
    """A part of a message that may have a usage is counted, and raises nothing."""
    meter = meter_of()

    assert meter.feed(frame) == ()
    assert (meter.take_unreadable(), list(meter.finish())) == (1, [])


def test_part_of_a_binary_message_is_unreadable_in_a_live_session() -> None:
    """Each part of a split message that has a count is unreadable, also in a binary frame."""
    whole = binary({"serverContent": {"turnComplete": True}, "usageMetadata": live_usage(5, 6)})

    for end, unreadable in ((50, 1), (100, 2)):
        meter = meter_of(*LIVE.server[:2], whole[:end], whole[end:])
        assert meter.take_unreadable() == unreadable


@pytest.mark.parametrize("noise", NOISE, ids=range(len(NOISE)))
def test_frame_without_a_message_is_ignored(noise: Frame) -> None:
    """Frames of other applications are neither counted nor unreadable."""
    meter = meter_of(noise)

    assert (meter.take_unreadable(), list(meter.finish())) == (0, [])


@pytest.mark.parametrize(
    "message",
    [
        {"type": 5},
        {"type": ""},
        {"type": "x" * 5000},
        {"type": "session.created", "session": []},
        {"type": "session.created", "session": {"model": 5, "audio": 5}},
        {"type": "session.created", "session": {"tools": [{}] * 5000}},
        {"type": "conversation.item.input_audio_transcription.completed", "usage": "none"},
        {"type": "response.created", "response": []},
        {"type": "response.completed", "response": {"id": 5, "model": [], "usage": [1]}},
        {"type": "response.completed", "response": {"id": "\ud83d", "usage": {"tokens": 1}}},
        {"type": "response.completed", "response": None},
        {"type": "error"},
        {"setupComplete": None, "serverContent": 5},
        {"serverContent": {"turnComplete": "yes", "modelTurn": None}},
        {"usageMetadata": {"promptTokenCount": "many"}},
        {"usageMetadata": {"promptTokensDetails": [{}] * 5000}},
    ],
)
def test_unexpected_values_report_no_usage(message: dict[str, Any]) -> None:
    """Values of other types than documented raise nothing and count no token."""
    meter = WebSocketMeter(clock=FakeClock())
    frames = [json.dumps(message), json.dumps(message, separators=(",", ":"))]

    responses = [*ended(meter, [*frames, *(frame.encode() for frame in frames)]), *meter.finish()]

    assert [item.usage for item in responses if item.usage is not None] == []
    assert meter.take_unreadable() == 0


def test_invalid_utf_8_in_a_field_reports_no_usage() -> None:
    """A field that is not text in UTF-8 is as if it were missing."""
    frame = b'{"type":"response.done","response":{"id":"\xff","usage":{"input_tokens":1,"\xff":2}}}'

    assert outcomes(ended(meter_of(), [frame])) == [(None, None, "missing")]


def test_halves_of_surrogate_pairs_are_repaired() -> None:
    """Text that was cut between two halves of a character hides no usage."""
    usage = responses_usage(read=3, written=4)
    frame = response("response.completed", "resp_1", usage, output="\ud83d")

    assert [item.usage for item in ended(meter_of(), [frame])] == [TokenUsage(3, 4)]


def test_half_of_a_surrogate_pair_as_a_character_is_repaired() -> None:
    """A text frame may have characters that UTF-8 cannot encode."""
    usage = responses_usage(read=3, written=4)
    frame = response("response.completed", "resp_1", usage, output="HALF").replace("HALF", "\ud83d")

    assert [item.usage for item in ended(meter_of(), [frame])] == [TokenUsage(3, 4)]


def test_usage_of_a_huge_response_is_read_at_its_end() -> None:
    """A response with an image of megabytes is not decoded, and counts to the token."""
    usage = responses_usage(read=3, written=4)
    huge = response("response.completed", "resp_1", usage, output="x" * (MAX_DOCUMENT_BYTES + 1))
    meter = meter_of(response("response.created", "resp_1"), response("response.created", "resp_2"))

    [item] = ended(meter, [huge])

    assert (item.id, item.usage, item.model) == ("resp_1", TokenUsage(3, 4), "gpt-5.3-codex")
    assert [item.id for item in meter.finish()] == ["resp_2"]


def test_end_of_a_huge_response_is_repaired() -> None:
    """A half of a surrogate pair near the usage does not hide it."""
    usage = responses_usage(read=3, written=4)
    inner = {"id": "resp_1", "output": PCM, "usage": usage, "user": "\ud83d"}
    frame = text({"type": "response.completed", "response": inner})

    assert [item.usage for item in ended(meter_of(max_bytes=1000), [frame])] == [TokenUsage(3, 4)]


def test_huge_response_without_an_id_at_its_start_is_counted() -> None:
    """The only response in progress needs no id."""
    inner = {"output": PCM * 3, "id": "resp_1", "usage": responses_usage(read=3, written=4)}
    frame = text({"type": "response.done", "response": inner})
    meter = meter_of(response("response.created", "resp_1"), max_bytes=1000)

    assert [item.usage for item in ended(meter, [frame])] == [TokenUsage(3, 4)]


@pytest.mark.parametrize("to_bytes", [True, False])
def test_huge_response_without_usage_at_its_end_is_missing(to_bytes: bool) -> None:
    """A huge frame whose usage is not found ends the response, and is unreadable."""
    inner = {"id": "resp_1", "usage": responses_usage(read=3, written=4), "output": PCM * 9}
    frame = converted(text({"type": "response.completed", "response": inner}), to_bytes=to_bytes)
    meter = meter_of(response("response.created", "resp_1"), max_bytes=1000)

    assert [(item.id, item.source) for item in ended(meter, [frame])] == [("resp_1", "missing")]
    assert meter.take_unreadable() == 1


def test_huge_frame_of_a_live_session_is_unreadable_if_it_has_usage() -> None:
    """Other huge frames than the end of a response of OpenAI are not read."""
    meter = meter_of(*LIVE.server[:1], max_bytes=1000)

    meter.feed(model_turn())
    assert meter.take_unreadable() == 0
    meter.feed(model_turn(usageMetadata=live_usage(40, 3)))
    assert meter.take_unreadable() == 1


def test_sessions_have_every_kind_of_frame() -> None:
    """The sessions of these tests have text and binary frames of all three APIs."""
    assert all(isinstance(frame, str) for frame in (*REALTIME.server, *RESPONSES.server))
    assert all(isinstance(frame, bytes) for frame in LIVE.server)

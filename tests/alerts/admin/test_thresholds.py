"""The thresholds over HTTP: nobody overwrites what they have not seen, and nothing is clamped."""

from __future__ import annotations

import string
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Thresholds
from tokenpulse_mw.alerts.admin.thresholds import quoted, tags_of
from tokenpulse_mw.alerts.store import MemoryAlertStore

from .gateway import NOON, Api


def change(api: Api, values: Any, match: str | None = '"0"', method: str = "PATCH") -> Any:
    """What a change is answered with."""
    headers = {} if match is None else {"if-match": match}
    return api.ask(method, "/thresholds", headers=headers, json={"thresholds": values})


def wrong(api: Api, values: Any, method: str = "PATCH") -> dict[str, str]:
    """What is wrong with each threshold, as a change is told."""
    answer = change(api, values, method=method)
    assert answer.status_code == 422
    return {each["loc"][1]: each["msg"] for each in answer.json()["errors"]}


def test_the_thresholds_of_the_constructor_hold_until_some_are_set() -> None:
    """All of them are shown, and there is no version of them yet."""
    api = Api(thresholds=Thresholds(master_rpm=600))

    answer = api.ask("GET", "/thresholds")

    assert answer.headers["etag"] == '"0"'
    assert answer.json() == {
        "version": None,
        "updated_at": None,
        "updated_by": None,
        "thresholds": Thresholds(master_rpm=600).as_dict(),
    }
    assert set(answer.json()["thresholds"]) == set(Thresholds.fields())


def test_some_thresholds_can_be_set() -> None:
    """PATCH leaves the others as they are; the answer says what holds now, and who set it."""
    api = Api(thresholds=Thresholds(master_rpm=600))
    body = {"thresholds": {"error_rate": 0.2, "provider_failures": None}, "by": "ada"}

    answer = api.ask("PATCH", "/thresholds", headers={"if-match": '"0"'}, json=body)

    wanted = Thresholds(master_rpm=600, error_rate=0.2, provider_failures=None)
    assert answer.headers["etag"] == '"1"'
    assert answer.json() == {
        "version": 1,
        "updated_at": "2027-01-15T08:00:00Z",
        "updated_by": "ada",
        "thresholds": wanted.as_dict(),
    }
    assert answer.json() == api.get("/thresholds")
    assert api.engine.thresholds == wanted


def test_all_thresholds_can_be_set() -> None:
    """PUT takes what GET gave, changed or not."""
    api = Api()

    answer = change(api, Thresholds(global_qps=3.5).as_dict(), method="PUT")

    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    assert api.engine.thresholds == Thresholds(global_qps=3.5)


def test_a_put_that_leaves_thresholds_out_is_refused() -> None:
    """Nobody resets what they have not thought of; each that is missing is named."""
    api = Api()

    problems = wrong(api, {"error_rate": 0.2}, method="PUT")

    assert list(problems) == [name for name in Thresholds.fields() if name != "error_rate"]
    assert set(problems.values()) == {"is missing"}


def test_every_wrong_threshold_is_named_and_none_is_changed() -> None:
    """A value out of range is refused, never moved into it."""
    api = Api()

    problems = wrong(
        api, {"master_rpm": 0, "error_rate": 20, "colour": "red", "self": 1, "critical_factor": 3}
    )

    assert problems == {
        "colour": "is no threshold",
        "self": "is no threshold",
        "master_rpm": "must be a whole number above 0 and at most 1e+15, or null to switch it off, "
        "got 0",
        "error_rate": "must be a number above 0 and at most 1, or null to switch it off, got 20",
    }
    assert api.engine.thresholds == Thresholds()


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_all_that_is_wrong_is_named_wherever_it_stands(method: str) -> None:
    """Whoever has mended one thing does not learn of the next one only then."""
    values = Thresholds().as_dict() | {"error_rate": 20, "master_rpm": 0, "colour": "red"}
    body = {"thresholds": values, "by": 7, "colour": "red"}

    answer = Api().refused(method, "/thresholds", headers={"if-match": "*"}, json=body)

    assert answer == (
        422,
        [
            ["colour"],
            ["by"],
            ["thresholds", "colour"],
            ["thresholds", "master_rpm"],
            ["thresholds", "error_rate"],
        ],
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "loc"),
    [
        ("PUT", "/thresholds", b"{}", ["thresholds"]),
        ("PATCH", "/thresholds", b'{"by": "ada"}', ["thresholds"]),
        ("PATCH", "/thresholds", b'{"thresholds": {}, "by": "\xff"}', ["by"]),
        ("PATCH", "/thresholds", b'{"thresholds": {"\xff": 1}}', ["thresholds"]),
        ("POST", "/evaluate", b'{"by": "ada"}', ["by"]),
    ],
)
def test_a_body_that_is_not_as_described_is_refused(
    method: str, path: str, body: bytes, loc: list[str]
) -> None:
    """What is missing, what is too much, and what is no text."""
    headers = {"if-match": "*", "content-type": "application/json"}

    assert Api().refused(method, path, headers=headers, content=body) == (422, [loc])


@pytest.mark.parametrize(
    "value",
    ["1e999", "-1e999", "9" * 5000, "1" + "0" * 60, "true", '"1"', "[1]", '{"a": 1}', "-1", "0.5"],
)
def test_what_is_no_such_number_is_refused(value: str) -> None:
    """Too large, of another type, or a fraction of a request."""
    headers = {"if-match": '"0"', "content-type": "application/json"}
    body = f'{{"thresholds": {{"master_rpm": {value}}}}}'

    answer = Api().refused("PATCH", "/thresholds", headers=headers, content=body)

    assert answer == (422, [["thresholds", "master_rpm"]])


def test_a_whole_number_may_be_written_as_a_fraction() -> None:
    """JSON does not tell 600.0 from 600."""
    api = Api()

    assert change(api, {"master_rpm": 600.0}).status_code == 200
    assert api.engine.thresholds.master_rpm == 600


@pytest.mark.parametrize("given", [None, [], "all", 1])
def test_thresholds_are_an_object(given: Any) -> None:
    """Anything else has no names."""
    answer = Api().refused(
        "PATCH", "/thresholds", headers={"if-match": "*"}, json={"thresholds": given}
    )

    assert answer == (422, [["thresholds"]])


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_whoever_does_not_say_what_they_have_read_is_asked_to(method: str) -> None:
    """428: without If-Match two people on call would undo each other."""
    answer = change(Api(), Thresholds().as_dict(), None, method)

    assert answer.status_code == 428


@pytest.mark.parametrize("match", ["0", "W/0", ""])
def test_an_if_match_that_cannot_be_read_is_refused(match: str) -> None:
    """The answer shows what one looks like."""
    answer = change(Api(), {}, match)

    assert answer.status_code == 400
    assert 'such as "3"' in answer.json()["detail"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("match", ['"0"', '"7"', 'W/"1"', '"1x"', '"' + "9" * 5000 + '"'])
def test_what_was_read_before_somebody_else_changed_it_changes_nothing(
    match: str, method: str
) -> None:
    """412 says which version holds. A weak tag is no version."""
    api = Api()
    change(api, {"error_rate": 0.2})

    answer = change(api, Thresholds().as_dict(), match, method)

    assert (answer.status_code, answer.headers["etag"]) == (412, '"1"')
    assert answer.json()["version"] == 1
    assert api.engine.thresholds.error_rate == 0.2


@pytest.mark.parametrize("match", ["*", '"1"', '"7", "1"'])
def test_a_change_is_made_to_what_was_read(match: str) -> None:
    """One of several tags will do, and a star takes whatever holds."""
    api = Api()
    change(api, {"error_rate": 0.2})

    answer = change(api, {"error_rate": 0.3}, match)

    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')


def test_a_version_that_only_the_store_knows_is_not_overwritten() -> None:
    """412 gives the tag that is wanted; it holds here from then on."""
    api = Api(store=MemoryAlertStore())
    kept = Thresholds(error_rate=0.2).as_dict()

    async def elsewhere() -> None:
        await api.engine.store.set_thresholds(kept, expected=None, by="eve", at=NOON)

    api.ask("GET", "/thresholds")
    anyio.run(elsewhere)

    answers = [change(api, {"master_rpm": 5}, match) for match in ('"1"', '"0"', '"1"')]

    assert [each.status_code for each in answers] == [412, 412, 200]
    assert [each.headers["etag"] for each in answers] == ['"0"', '"1"', '"2"']
    assert api.engine.thresholds == Thresholds(error_rate=0.2, master_rpm=5)


def test_any_version_may_be_replaced_where_that_is_said() -> None:
    """`*` is whatever holds, also what was set elsewhere meanwhile."""
    api = Api(store=MemoryAlertStore())
    api.ask("GET", "/thresholds")

    async def elsewhere() -> None:
        kept = Thresholds().as_dict()
        await api.engine.store.set_thresholds(kept, expected=None, by="eve", at=NOON)

    anyio.run(elsewhere)

    assert change(api, {"master_rpm": 5}, "*").headers["etag"] == '"2"'


def test_what_was_kept_is_shown_before_the_first_round() -> None:
    """Whoever changes it sees what it is."""
    store = MemoryAlertStore()
    anyio.run(partial(store.set_thresholds, {"error_rate": 0.2}, expected=None, by="eve", at=NOON))

    shown = Api(store=store).ask("GET", "/thresholds").json()

    assert (shown["version"], shown["thresholds"]["error_rate"]) == (1, 0.2)


def test_a_put_may_replace_a_version_that_cannot_be_used() -> None:
    """What a newer release has kept must not lock everybody out of an older one."""
    api = Api()

    async def elsewhere() -> None:
        await api.engine.store.set_thresholds({"error_rate": 7}, expected=None, by="eve", at=NOON)

    anyio.run(elsewhere)

    assert change(api, Thresholds().as_dict(), '"1"', "PUT").headers["etag"] == '"2"'


@pytest.mark.parametrize(
    ("known", "status"), [('"0"', 304), ('W/"0"', 304), ("*", 304), ('"1"', 200), ("0", 200)]
)
def test_what_was_read_before_need_not_be_read_again(known: str, status: int) -> None:
    """A page that polls costs little."""
    answer = Api().ask("GET", "/thresholds", headers={"if-none-match": known})

    assert (answer.status_code, answer.headers["etag"]) == (status, '"0"')
    assert bool(answer.content) == (status == 200)


def test_it_is_known_who_set_which_thresholds() -> None:
    """The newest first, as many as are wanted."""
    api = Api()
    for number in range(3):
        change(api, {"master_rpm": 10 + number}, "*")

    versions = api.get("/thresholds/history?limit=2")["versions"]

    assert [each["version"] for each in versions] == [3, 2]
    assert versions[0] == {
        "version": 3,
        "updated_at": "2027-01-15T08:00:00Z",
        "updated_by": "unknown",
        "thresholds": Thresholds(master_rpm=12).as_dict(),
    }


OPAQUE = st.text(string.ascii_letters + string.digits + "!#,;*/\\ÿ", max_size=8)


SPACE = st.text(" \t", max_size=3)


ELEMENT = st.tuples(st.sampled_from(["", "W/"]), OPAQUE)


@given(st.lists(ELEMENT, min_size=1), st.data())
def test_a_list_is_read_as_it_was_written(
    elements: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Spaces and empty elements mean nothing, and a comma within quotes separates nothing."""
    written = [f'{data.draw(SPACE)}{weak}"{tag}"{data.draw(SPACE)}' for weak, tag in elements]
    for _ in range(data.draw(st.integers(0, 2))):
        written.insert(data.draw(st.integers(0, len(written))), data.draw(SPACE))

    tags = tags_of(",".join(written))

    assert tags.strong == tuple(tag for weak, tag in elements if not weak)
    assert tags.weak == tuple(tag for weak, tag in elements if weak)
    assert not tags.every


@given(OPAQUE)
def test_a_weak_tag_never_matches_strongly(tag: str) -> None:
    """What is only equivalent is not what If-Match asks for."""
    weak, strong = tags_of(f'W/"{tag}"'), tags_of(quoted(tag))

    assert (weak.match(tag), weak.match_weakly(tag)) == (False, True)
    assert (strong.match(tag), strong.match_weakly(tag)) == (True, True)


@given(OPAQUE)
def test_a_star_matches_whatever_there_is(tag: str) -> None:
    """It asks only that there is something."""
    assert tags_of(" * ").match(tag)


@pytest.mark.slow
@given(st.text(max_size=20))
@example("\n")
@example('"3"\n')
def test_no_header_breaks_anything(header: str) -> None:
    """Whatever a client sends, it is read or refused."""
    with suppress(ValueError):
        tags = tags_of(header)
        assert tags.every or tags.strong or tags.weak


@pytest.mark.parametrize("header", ["", " , ", "3", '"3', '"3" "4"', 'w/"3"', '*, "3"', '"a b"'])
def test_what_is_no_list_of_tags_is_refused(header: str) -> None:
    """A tag without its quotes is none, and neither is a part of one."""
    with pytest.raises(ValueError, match="expected"):
        tags_of(header)

"""Operations on thresholds, and entity tags."""

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
from tokenpulse_mw.alerts.store import MemoryAlertStore
from tokenpulse_mw.web.etag import parse_tags, quoted

from .api import NOON, Api

JSON = {"content-type": "application/json"}


def change(api: Api, values: Any, match: str | None = '"0"', method: str = "PATCH") -> Any:
    """Return the response to a change of thresholds."""
    headers = {} if match is None else {"if-match": match}
    return api.request(method, "/thresholds", headers=headers, json={"thresholds": values})


def errors(api: Api, values: Any, method: str = "PATCH") -> dict[str, str]:
    """Return the error messages of an invalid change by threshold."""
    response = change(api, values, method=method)
    assert response.status_code == 422
    return {error["loc"][1]: error["msg"] for error in response.json()["errors"]}


def set_in_store(api: Api, values: dict[str, Any]) -> None:
    """Set version 1 of the thresholds in the store, without the engine."""
    store = api.engine.store
    anyio.run(partial(store.set_thresholds, values, expected=None, by="eve", at=NOON))


def test_initial_thresholds_have_no_version() -> None:
    """The thresholds of the constructor have the version null and the ETag "0"."""
    api = Api(thresholds=Thresholds(master_rpm=600))

    response = api.request("GET", "/thresholds")

    assert response.headers["etag"] == '"0"'
    assert response.json() == {
        "version": None,
        "updated_at": None,
        "updated_by": None,
        "thresholds": Thresholds(master_rpm=600).as_dict(),
    }
    assert set(response.json()["thresholds"]) == set(Thresholds.fields())


def test_patch_sets_some_thresholds_and_keeps_the_others() -> None:
    """PATCH keeps the other thresholds and returns the new version with its author."""
    api = Api(thresholds=Thresholds(master_rpm=600))
    body = {"thresholds": {"error_rate": 0.2, "provider_failures": None}, "by": "ada"}

    response = api.request("PATCH", "/thresholds", headers={"if-match": '"0"'}, json=body)

    expected = Thresholds(master_rpm=600, error_rate=0.2, provider_failures=None)
    assert response.headers["etag"] == '"1"'
    assert response.json() == {
        "version": 1,
        "updated_at": "2027-01-15T08:00:00Z",
        "updated_by": "ada",
        "thresholds": expected.as_dict(),
    }
    assert response.json() == api.get("/thresholds")
    assert api.engine.thresholds == expected


def test_put_sets_all_thresholds() -> None:
    """PUT accepts the thresholds in the form in which GET returns them."""
    api = Api()

    response = change(api, Thresholds(global_qps=3.5).as_dict(), method="PUT")

    assert (response.status_code, response.headers["etag"]) == (200, '"1"')
    assert api.engine.thresholds == Thresholds(global_qps=3.5)


def test_put_with_missing_thresholds_is_rejected() -> None:
    """PUT does not reset missing thresholds: it is rejected, and the errors name each of them."""
    problems = errors(Api(), {"error_rate": 0.2}, method="PUT")

    assert list(problems) == [name for name in Thresholds.fields() if name != "error_rate"]
    assert set(problems.values()) == {"is missing"}


def test_invalid_thresholds_are_all_named_and_none_is_changed() -> None:
    """A value out of range is rejected, not clamped, and valid values are not set either."""
    api = Api()

    problems = errors(
        api, {"master_rpm": 0, "error_rate": 20, "colour": "red", "self": 1, "critical_factor": 3}
    )

    assert problems == {
        "colour": "is not a threshold",
        "self": "is not a threshold",
        "master_rpm": "must be an integer above 0 and at most 1e+15, or null to disable it, got 0",
        "error_rate": "must be a number above 0 and at most 1, or null to disable it, got 20",
    }
    assert api.engine.thresholds == Thresholds()


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_errors_of_fields_and_thresholds_are_returned_together(method: str) -> None:
    """A response has the errors of all fields and of all thresholds."""
    values = Thresholds().as_dict() | {"error_rate": 20, "master_rpm": 0, "colour": "red"}
    body = {"thresholds": values, "by": 7, "colour": "red"}

    error = Api().error(method, "/thresholds", headers={"if-match": "*"}, json=body)

    assert error == (
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
def test_invalid_field_of_the_body_is_rejected(
    method: str, path: str, body: bytes, loc: list[str]
) -> None:
    """Missing and unknown fields, and invalid UTF-8, are rejected with their location."""
    error = Api().error(method, path, headers={"if-match": "*", **JSON}, content=body)

    assert error == (422, [loc])


@pytest.mark.parametrize(
    "value",
    ["1e999", "-1e999", "9" * 5000, "1" + "0" * 60, "true", '"1"', "[1]", '{"a": 1}', "-1", "0.5"],
)
def test_value_that_is_not_a_valid_integer_is_rejected(value: str) -> None:
    """A value that is too large, negative, fractional or of another type is rejected."""
    body = f'{{"thresholds": {{"master_rpm": {value}}}}}'

    error = Api().error("PATCH", "/thresholds", headers={"if-match": '"0"', **JSON}, content=body)

    assert error == (422, [["thresholds", "master_rpm"]])


def test_integer_with_a_decimal_point_is_accepted() -> None:
    """600.0 is accepted as an integer, because JSON does not distinguish it from 600."""
    api = Api()

    assert change(api, {"master_rpm": 600.0}).status_code == 200
    assert api.engine.thresholds.master_rpm == 600


@pytest.mark.parametrize("value", [None, [], "all", 1])
def test_thresholds_that_are_not_an_object_are_rejected(value: Any) -> None:
    """The field `thresholds` must be an object."""
    error = Api().error(
        "PATCH", "/thresholds", headers={"if-match": "*"}, json={"thresholds": value}
    )

    assert error == (422, [["thresholds"]])


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_change_without_if_match_gets_428(method: str) -> None:
    """A change requires If-Match, so that concurrent changes are not lost."""
    response = change(Api(), Thresholds().as_dict(), None, method)

    assert response.status_code == 428


def test_put_without_if_match_sets_the_thresholds_that_are_its_fields() -> None:
    """Clients of the seed send some thresholds without a version; the others are kept."""
    api = Api(thresholds=Thresholds(master_rpm=600))

    response = api.request("PUT", "/thresholds", json={"global_qps": 100, "master_rpd": None})

    assert (response.status_code, response.headers["etag"]) == (200, '"1"')
    assert response.json() == api.get("/thresholds")
    assert api.engine.thresholds == Thresholds(master_rpm=600, global_qps=100)


def test_put_without_if_match_keeps_what_another_process_has_set() -> None:
    """The thresholds of the newest version in the store are kept, even if it was unknown here."""
    api = Api()
    api.request("GET", "/thresholds")
    set_in_store(api, Thresholds(error_rate=0.2).as_dict())

    response = api.request("PUT", "/thresholds", json={"global_qps": 100})

    assert response.headers["etag"] == '"2"'
    assert api.engine.thresholds == Thresholds(error_rate=0.2, global_qps=100)


def test_put_without_if_match_keeps_a_change_made_at_the_same_time() -> None:
    """A change that another process stores between the read and the write of a PUT is not lost."""

    class Racing(MemoryAlertStore):
        has_raced = False

        async def set_thresholds(self, *values: Any, **options: Any) -> Any:
            if not self.has_raced:
                self.has_raced = True
                first = {**Thresholds().as_dict(), "error_rate": 0.2}
                await super().set_thresholds(first, expected=None, by="eve", at=NOON)
            return await super().set_thresholds(*values, **options)

    api = Api(store=Racing())

    response = api.request("PUT", "/thresholds", json={"global_qps": 100})

    assert (response.status_code, response.headers["etag"]) == (200, '"2"')
    assert api.engine.thresholds == Thresholds(error_rate=0.2, global_qps=100)


def test_put_without_if_match_of_invalid_thresholds_names_its_fields() -> None:
    """Invalid values and unknown names are rejected, and nothing is changed."""
    api = Api()
    body = {"global_qps": 0, "colour": "red", "master_rpm": 5}

    error = api.error("PUT", "/thresholds", json=body)

    assert error == (422, [["colour"], ["global_qps"]])
    assert api.engine.thresholds == Thresholds()


@pytest.mark.parametrize("body", [{}, {"thresholds": {"master_rpm": 5}}])
def test_put_of_all_thresholds_or_of_none_requires_if_match(body: Any) -> None:
    """The body of a complete change is not taken for fields."""
    assert Api().error("PUT", "/thresholds", json=body) == (428, [])


def test_put_of_fields_with_if_match_is_rejected() -> None:
    """With a version, PUT is complete: it requires the field `thresholds`."""
    error = Api().error("PUT", "/thresholds", headers={"if-match": "*"}, json={"global_qps": 100})

    assert error == (422, [["global_qps"], ["thresholds"]])


@pytest.mark.parametrize("match", ["0", "W/0", ""])
def test_malformed_if_match_gets_400(match: str) -> None:
    """The error of a malformed If-Match has a valid example."""
    response = change(Api(), {}, match)

    assert response.status_code == 400
    assert 'such as "3"' in response.json()["detail"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("match", ['"0"', '"7"', 'W/"1"', '"1x"', '"' + "9" * 5000 + '"'])
def test_change_with_another_version_gets_412(match: str, method: str) -> None:
    """A change with an old, unknown or weak tag gets 412 with the current version."""
    api = Api()
    change(api, {"error_rate": 0.2})

    response = change(api, Thresholds().as_dict(), match, method)

    assert (response.status_code, response.headers["etag"]) == (412, '"1"')
    assert response.json()["version"] == 1
    assert api.engine.thresholds.error_rate == 0.2


@pytest.mark.parametrize("match", ["*", '"1"', '"7", "1"'])
def test_change_with_the_version_in_force_is_accepted(match: str) -> None:
    """A change is accepted if If-Match is `*`, or a list with the current version."""
    api = Api()
    change(api, {"error_rate": 0.2})

    response = change(api, {"error_rate": 0.3}, match)

    assert (response.status_code, response.headers["etag"]) == (200, '"2"')


def test_version_that_another_process_has_stored_is_the_current_one() -> None:
    """A change gets 412 with an older ETag, and 200 with that of the store."""
    api = Api()
    api.request("GET", "/thresholds")
    set_in_store(api, Thresholds(error_rate=0.2).as_dict())

    responses = [change(api, {"master_rpm": 5}, match) for match in ('"0"', '"1"', '"1"')]

    assert [response.status_code for response in responses] == [412, 200, 412]
    assert [response.headers["etag"] for response in responses] == ['"1"', '"2"', '"2"']
    assert api.engine.thresholds == Thresholds(error_rate=0.2, master_rpm=5)


def test_star_replaces_a_version_that_only_the_store_has() -> None:
    """`If-Match: *` replaces any version, also one that another process has stored."""
    api = Api()
    api.request("GET", "/thresholds")
    set_in_store(api, Thresholds().as_dict())

    assert change(api, {"master_rpm": 5}, "*").headers["etag"] == '"2"'


def test_stored_thresholds_are_returned_before_the_first_evaluation() -> None:
    """The first request restores the stored thresholds."""
    store = MemoryAlertStore()
    anyio.run(partial(store.set_thresholds, {"error_rate": 0.2}, expected=None, by="eve", at=NOON))

    body = Api(store=store).request("GET", "/thresholds").json()

    assert (body["version"], body["thresholds"]["error_rate"]) == (1, 0.2)


def test_put_replaces_an_invalid_stored_version() -> None:
    """PUT can replace a stored version that is invalid, such as one of a newer release."""
    api = Api()
    set_in_store(api, {"error_rate": 7})

    assert change(api, Thresholds().as_dict(), '"1"', "PUT").headers["etag"] == '"2"'


@pytest.mark.parametrize(
    ("match", "status"), [('"0"', 304), ('W/"0"', 304), ("*", 304), ('"1"', 200), ("0", 200)]
)
def test_get_with_the_current_etag_gets_304(match: str, status: int) -> None:
    """GET with a matching If-None-Match gets 304 without a body."""
    response = Api().request("GET", "/thresholds", headers={"if-none-match": match})

    assert (response.status_code, response.headers["etag"]) == (status, '"0"')
    assert bool(response.content) == (status == 200)


def test_history_has_the_newest_versions_first() -> None:
    """The history has the newest versions with their authors, up to the limit."""
    api = Api()
    for number in range(3):
        change(api, {"master_rpm": 10 + number}, "*")

    versions = api.get("/thresholds/history?limit=2")["versions"]

    assert [version["version"] for version in versions] == [3, 2]
    assert versions[0] == {
        "version": 3,
        "updated_at": "2027-01-15T08:00:00Z",
        "updated_by": "unknown",
        "thresholds": Thresholds(master_rpm=12).as_dict(),
    }


OPAQUE_TAGS = st.text(string.ascii_letters + string.digits + "!#,;*/\\ÿ", max_size=8)
SPACES = st.text(" \t", max_size=3)
ENTITY_TAGS = st.tuples(st.sampled_from(["", "W/"]), OPAQUE_TAGS)


@given(st.lists(ENTITY_TAGS, min_size=1), st.data())
def test_list_of_tags_is_parsed_with_spaces_and_empty_elements(
    elements: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Spaces and empty elements are ignored, and a quoted comma does not separate elements."""
    parts = [f'{data.draw(SPACES)}{weak}"{tag}"{data.draw(SPACES)}' for weak, tag in elements]
    for _ in range(data.draw(st.integers(0, 2))):
        parts.insert(data.draw(st.integers(0, len(parts))), data.draw(SPACES))

    tags = parse_tags(",".join(parts))

    assert tags.strong == tuple(tag for weak, tag in elements if not weak)
    assert tags.weak == tuple(tag for weak, tag in elements if weak)
    assert not tags.any


@given(OPAQUE_TAGS)
def test_weak_tag_matches_only_by_weak_comparison(tag: str) -> None:
    """A weak tag matches in If-None-Match, but not in If-Match; a strong tag matches in both."""
    weak, strong = parse_tags(f'W/"{tag}"'), parse_tags(quoted(tag))

    assert (weak.match(tag), weak.match_weakly(tag)) == (False, True)
    assert (strong.match(tag), strong.match_weakly(tag)) == (True, True)


@given(OPAQUE_TAGS)
def test_star_matches_every_tag(tag: str) -> None:
    """`*` matches every tag."""
    assert parse_tags(" * ").match(tag)


@pytest.mark.slow
@given(st.text(max_size=20))
@example("\n")
@example('"3"\n')
def test_any_header_is_parsed_or_rejected(header: str) -> None:
    """Any header is parsed to at least one tag, or rejected with ValueError."""
    with suppress(ValueError):
        tags = parse_tags(header)
        assert tags.any or tags.strong or tags.weak


@pytest.mark.parametrize("header", ["", " , ", "3", '"3', '"3" "4"', 'w/"3"', '*, "3"', '"a b"'])
def test_malformed_list_of_tags_is_rejected(header: str) -> None:
    """A header without a quoted tag, or with other text, is rejected."""
    with pytest.raises(ValueError, match="expected"):
        parse_tags(header)

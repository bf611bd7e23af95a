"""Endpoints of the keys of limits."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tokenpulse_mw import InFlight, Limiter, Person, PlanLimiter, Policy, SharedLimiter, keys
from tokenpulse_mw.ratelimit import KeyBlock
from tokenpulse_mw.ratelimit.admin import handles, key_usage
from tokenpulse_mw.ratelimit.admin import keys as admin_keys
from tokenpulse_mw.ratelimit.key_kinds import hash_of
from tokenpulse_mw.ratelimit.shared import SharedInFlight
from tokenpulse_mw.ratelimit.zone import ZoneLimiter
from tokenpulse_mw.web.problems import ProblemError

from ...support.asgi import http_scope
from ...support.clock import FakeClock
from .api import NOON, Api, content

pytestmark = pytest.mark.anyio

ADDRESS = bytes((192, 0, 2, 7))
NEXT_MINUTE = "2027-01-15T08:01:00Z"


def tenants(limit: str = "10/minute", /, **used: int) -> Policy:
    """Return a limit by tenant with some usage."""
    policy = Policy(
        Limiter(limit, clock=FakeClock(5.0), wall_clock=FakeClock(NOON)),
        name="tenant",
        key=keys.annotation("tenant"),
    )
    for key, amount in used.items():
        policy.local.hit(key, amount)
    return policy


async def labels(api: Api, path: str) -> list[str]:
    """Return the labels of the listed keys."""
    return [key["label"] for key in (await api.get(path))["keys"]]


async def test_keys_near_their_limit_are_listed_most_used_first() -> None:
    """An entry has the usage, and the time at which all of the limit is available again."""
    api = Api(tenants(a=3, b=9, c=8, d=7, e=10))

    page = await api.get("/tenant/keys")

    assert [(key["label"], key["used"]) for key in page["keys"]] == [("e", 10), ("b", 9), ("c", 8)]
    assert re.fullmatch("k_[0-9a-f]{32}", page["keys"][0].pop("key"))
    assert page["keys"][0] == {
        "label": "e",
        "used": 10,
        "limit": 10,
        "remaining": 0,
        "resets_at": NEXT_MINUTE,
        "blocked_until": None,
    }
    assert {name: page[name] for name in ("next", "local", "partial")} == {
        "next": None,
        "local": False,
        "partial": False,
    }
    assert await labels(api, "/tenant/keys?near=0.7") == ["e", "b", "c", "d"]
    assert await labels(api, "/tenant/keys?near=0") == ["e", "b", "c", "d", "a"]


async def test_pages_have_every_key_once() -> None:
    """The cursor is a position, so a key that is new does not shift the next page."""
    policy = tenants(
        "10/minute", **dict.fromkeys((f"t{number}" for number in range(7)), 8), most=10
    )
    api, cursor, found = Api(policy), "", list[str]()

    while True:
        page = await api.get(f"/tenant/keys?limit=3{cursor}")
        found += [key["label"] for key in page["keys"]]
        if page["next"] is None:
            break
        policy.local.hit("new", 9)
        cursor = f"&cursor={page['next']}"

    assert found[0] == "most"
    assert len(found) == 8
    assert set(found) == {"most", *(f"t{number}" for number in range(7))}


async def test_short_page_of_many_keys_has_the_most_used() -> None:
    """The list is cut while the table is read, so that it needs little memory."""
    used = {f"t{number}": number for number in range(1, 100)}

    assert await labels(Api(tenants("100/minute", **used)), "/tenant/keys?near=0&limit=2") == [
        "t99",
        "t98",
    ]


async def test_amounts_of_money_are_dollars() -> None:
    """Micro-dollars are not shown."""
    api = Api(tenants("20 USD/day", acme=19_500_000))

    [key] = (await api.get("/tenant/keys"))["keys"]

    assert (key["used"], key["limit"], key["remaining"]) == (19.5, 20.0, 0.5)


async def test_name_of_a_tenant_is_shown_with_its_id() -> None:
    """A tenant without a name, or whose name is its id, is shown by its id."""
    names = {"t1": "Acme", "t2": "t2"}
    policy = tenants(t1=10, t2=9, t3=8)

    assert await labels(Api(policy, name_of=names.get), "/tenant/keys") == ["Acme (t1)", "t2", "t3"]


async def test_failing_name_hides_only_the_label() -> None:
    """The list is served, and names the type of the key."""

    def name_of(tenant: str) -> str:
        raise LookupError(tenant)

    assert await labels(Api(tenants(t1=10), name_of=name_of), "/tenant/keys") == ["key of type str"]


async def test_hostile_text_of_a_key_is_sanitized() -> None:
    """Control characters and lone surrogates do not reach the page, and long text is cut."""
    policy = tenants()
    for key in ("a\nb\ud800\u202e", "x" * 500):
        policy.local.hit(key, 10)

    found = sorted(await labels(Api(policy), "/tenant/keys"))

    assert found[0] == "a b?"
    assert (len(found[1]), found[1][-3:]) == (200, "...")


def key_of(function: Any, **request: Any) -> Hashable:
    """Return the key of a request."""
    key: Hashable = function(http_scope(**request))
    return key


@pytest.mark.parametrize("near", ["0", "0.8"])
async def test_secret_keys_are_shown_by_a_part_of_their_hash(near: str) -> None:
    """Neither the value of a header nor the key of a function is sent."""
    by_header = keys.header("x-api-key")

    def by_function(scope: Any) -> str:
        return "sk-secret-of-function"

    secret = [(b"x-api-key", b"sk-secret-of-header")]
    api = Api(
        Policy("1/minute", name="header", key=by_header),
        Policy("1/minute", name="function", key=by_function),
        Policy("1/minute", name="both", key=keys.combine(by_header, keys.client_address())),
    )
    for policy in api.policies:
        policy.local.hit(key_of(policy.key, headers=secret))

    bodies = [
        (await api.send("GET", f"/{policy.name}/keys?near={near}")).body.decode()
        for policy in api.policies
    ]

    assert "sk-secret" not in "".join(bodies)
    assert re.search('"label":"header x-api-key …[0-9a-f]{4}"', bodies[0])
    assert re.search('"label":"by_function …[0-9a-f]{4}"', bodies[1])
    assert re.search('"label":"header x-api-key …[0-9a-f]{4}, 192.0.2.1"', bodies[2])


@pytest.mark.parametrize(
    "secret",
    ["sk-secret", b"sk-secret", ("sk-secret", 1), b"sk-secret-16-byt"],
    ids=["text", "bytes", "tuple", "size of an address"],
)
async def test_secret_key_in_place_of_the_address_is_hidden(secret: Hashable) -> None:
    """`TokenPulse.check` and the default key of a middleware may give a policy any key."""
    policy = Policy("1/minute")
    policy.local.hit(secret)

    [label] = await labels(Api(policy), "/default/keys")

    digits = hash_of(secret).hex()[-4:]
    assert label == f"client address …{digits}"


@pytest.mark.parametrize(
    ("address", "text", "label"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::9", "2001:db8::/64"),
        ("2001:db8::7", "2001:db8::/64", "2001:db8::/64"),
        ("testclient", "testclient", "client address …fcfa"),
    ],
)
async def test_client_is_found_by_its_address(address: str, text: str, label: str) -> None:
    """Every notation works, and how much the client has used does not matter."""
    policy = Policy("10/minute")
    policy.local.hit(key_of(policy.key, client=(address, 1)))

    [key] = (await Api(policy).get(f"/default/keys?q={text}"))["keys"]

    assert (key["label"], key["used"]) == (label, 1)


async def test_unused_address_is_returned_so_that_it_can_be_blocked() -> None:
    """Of a tenant, this is not so: any text would be one."""
    api = Api(Policy("10/minute"), tenants())

    assert await labels(api, "/default/keys?q=192.0.2.9") == ["192.0.2.9"]
    assert await labels(api, "/tenant/keys?q=acme") == []


async def test_address_without_a_limit_is_returned_so_that_it_can_be_blocked() -> None:
    """A plan may admit all requests, and slots in a storage cannot be read."""
    for policy in (
        Policy(lambda key: None),
        Policy(SharedInFlight(2, storage="redis://localhost:1")),
    ):
        [key] = (await Api(policy).get("/default/keys?q=192.0.2.9"))["keys"]

        assert (key["label"], key["used"], key["limit"]) == ("192.0.2.9", 0, None)


async def test_evicted_client_is_found_by_its_address() -> None:
    """Its usage is in the sketch, which the list cannot read."""
    policy = Policy(Limiter("10/minute", max_keys=1))
    policy.local.hit(ADDRESS, 9)
    policy.local.hit(bytes(4), 1)

    api = Api(policy)

    assert await labels(api, "/default/keys") == []
    assert (await api.get("/default/keys?q=192.0.2.7"))["keys"][0]["used"] == 9


async def test_key_is_found_by_its_label_a_part_of_it_and_its_handle() -> None:
    """Secret and combined keys have no text that is the key itself."""
    policy = Policy(
        "10/minute",
        name="both",
        key=keys.combine(keys.annotation("tenant"), keys.client_address()),
    )
    policy.local.hit(("acme", ADDRESS))
    policy.local.hit(("acme", None))
    policy.local.hit(("other", None))
    api = Api(policy)
    [whole] = (await api.get("/both/keys?q=acme,%20192.0.2.7"))["keys"]

    assert await labels(api, "/both/keys?q=192.0.2.7") == ["acme, 192.0.2.7"]
    assert sorted(await labels(api, "/both/keys?q=acme")) == ["acme", "acme, 192.0.2.7"]
    assert await labels(api, f"/both/keys?q={whole['key']}") == ["acme, 192.0.2.7"]
    other = Api(policy, secret=b"s" * 32)
    assert await labels(other, f"/both/keys?q={whole['key']}") == []


async def test_tenant_in_a_combined_key_is_found_by_id_and_name() -> None:
    """The label has both."""
    key = keys.combine(keys.annotation("tenant"), keys.route())
    policy = Policy("10/minute", name="both", key=key)
    policy.local.hit(("t1", "GET /a"))
    api = Api(policy, name_of={"t1": "Acme"}.get)

    for text in ("t1", "Acme%20(t1)", "GET%20/a", "t1,%20GET%20/a"):
        assert await labels(api, f"/both/keys?q={text}") == ["Acme (t1), GET /a"]


async def test_handle_of_another_policy_finds_nothing() -> None:
    """The same key of two limits has two handles."""
    other = Policy("10/minute", name="other", key=keys.annotation("tenant"))
    other.local.hit("acme")
    api = Api(tenants(acme=5), other)
    handle = await api.handle("acme", "tenant")

    assert await labels(api, f"/other/keys?q={handle}") == []


async def test_matches_of_a_lookup_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many keys may have the same part."""
    monkeypatch.setattr(admin_keys, "_MAX_LIMIT", 3)
    key = keys.combine(keys.annotation("tenant"), keys.annotation("api_key"))
    policy = Policy("10/minute", name="both", key=key)
    for number in range(5):
        policy.local.hit(("acme", str(number)))

    assert len(await labels(Api(policy), "/both/keys?q=acme")) == 3


async def test_unused_key_of_the_table_is_found_by_its_text() -> None:
    """A refund leaves an entry without usage."""
    policy = tenants(acme=1)
    assert isinstance(policy.local, Limiter)
    policy.local.charge("acme", -1)

    [key] = (await Api(policy).get("/tenant/keys?q=acme"))["keys"]

    assert (key["used"], key["remaining"]) == (0, 10)


async def test_keys_of_plans_have_their_own_limits() -> None:
    """A key that is not limited, or whose rate is unknown, is not listed."""
    limiter = PlanLimiter(
        {"free": "2/minute", "pro": "10/minute", "staff": None, "odd": "4/minute"}
    )
    policy = Policy(limiter, name="plans", key=keys.annotation("tenant"))
    for key, cost in {"free": 2, "pro": 9, "odd": 1}.items():
        limiter.hit(key, cost)
    limiter.set_rates({"free": "2/minute", "pro": "10/minute", "staff": None})
    api = Api(policy)

    found = (await api.get("/plans/keys"))["keys"]

    assert [(key["label"], key["limit"]) for key in found] == [("free", 2), ("pro", 10)]
    assert await labels(api, "/plans/keys?q=staff") == []


async def test_keys_with_requests_in_progress_are_listed() -> None:
    """When a slot becomes free is unknown, and slots cannot be reset."""
    policy = Policy(InFlight(2), name="slots", key=keys.annotation("tenant"))
    policy.local.hit("acme", 2)
    api = Api(policy)

    [key] = (await api.get("/slots/keys"))["keys"]
    answer = await api.send("POST", f"/slots/keys/{key['key']}/reset")

    assert (key["label"], key["used"], key["limit"], key["resets_at"]) == ("acme", 2, 2, None)
    assert answer.status == 409
    assert "requests in progress hold the slots" in answer.body.decode()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_shared_limit_lists_the_keys_of_this_process() -> None:
    """The list says so; during an outage, the usage is that of this process."""
    limiter = SharedLimiter("10/minute", storage="redis://localhost:1")
    policy = Policy(limiter, name="shared", key=keys.annotation("tenant"))
    await limiter.hit("acme", 3)
    limiter._top_usage.record("big", 9, now=0.0, ends=limiter.clock() + 60)
    api = Api(policy)

    page = await api.get("/shared/keys")
    [found] = (await api.get("/shared/keys?q=acme"))["keys"]
    handle = await api.handle("acme", "shared")

    assert ([key["label"] for key in page["keys"]], page["local"]) == (["big"], True)
    assert found["used"] == 3
    assert (await api.send("POST", f"/shared/keys/{handle}/reset")).status == 204
    assert (await limiter.peek("acme")).remaining == 10
    await limiter.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_key_that_cannot_be_shared_is_not_found() -> None:
    """Such a key cannot have used a shared limit."""
    limiter = SharedLimiter("10/minute", storage="redis://localhost:1")
    policy = Policy(limiter, name="shared")

    assert await key_usage.usage_of(policy, 1.5) is None


async def test_shared_slots_have_no_list() -> None:
    """The storage has only hashes of the keys; a blocked key is listed without usage."""
    limiter = SharedInFlight(2, storage="redis://localhost:1")
    policy = Policy(limiter, name="slots", key=keys.annotation("tenant"))
    api = Api(policy)

    assert await labels(api, "/slots/keys?near=0") == []
    assert await labels(api, "/slots/keys?q=acme") == []
    api.blocks.set(policy, "acme", KeyBlock(NOON + 60, NOON, "ada", ""))
    [key] = (await api.get("/slots/keys"))["keys"]
    assert (key["label"], key["used"], key["limit"], key["remaining"]) == ("acme", 0, None, None)
    assert await labels(api, "/slots/keys?q=acme") == ["acme"]


async def test_large_file_may_have_more_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its keys are not counted, so the list of a large one is always partial."""
    monkeypatch.setattr(key_usage, "MAX_KEYS_READ", 4)
    for name, size, partial in (("a", 4, False), ("b", 5, True)):
        limiter = ZoneLimiter("9/minute", path=tmp_path / name, max_keys=size)
        page = await Api(Policy(limiter)).get("/default/keys")
        assert (page["partial"], page["local"]) == (partial, True)


async def test_large_table_is_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list says so; the keys that were added first and last are read."""
    monkeypatch.setattr(key_usage, "MAX_KEYS_READ", 4)
    policy = tenants("10/minute", **dict.fromkeys((f"t{number}" for number in range(5)), 9))
    small = tenants("10/minute", **dict.fromkeys((f"t{number}" for number in range(4)), 9))

    page = await Api(policy).get("/tenant/keys")

    assert sorted(key["label"] for key in page["keys"]) == ["t0", "t1", "t3", "t4"]
    assert (page["partial"], (await Api(small).get("/tenant/keys"))["partial"]) == (True, False)


async def test_long_list_yields_to_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of the event loop reads more than a few keys."""
    monkeypatch.setattr(key_usage, "KEYS_PER_STEP", 2)
    checkpoints = list[int]()

    async def checkpoint() -> None:
        checkpoints.append(1)

    monkeypatch.setattr("anyio.lowlevel.checkpoint", checkpoint)
    policy = tenants("10/minute", **dict.fromkeys((f"t{number}" for number in range(7)), 9))

    assert len([usage async for usage in key_usage.usages(policy)]) == 7
    assert len(checkpoints) == 3


async def test_long_page_yields_to_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries of a page are made in steps too, and blocked keys are read in steps."""
    monkeypatch.setattr(admin_keys, "KEYS_PER_STEP", 2)
    used = dict.fromkeys((f"t{number}" for number in range(5)), 9)
    api = Api(tenants("10/minute", **used))
    for key in list(used)[:3]:
        api.blocks.set(api.policies[0], key, KeyBlock(NOON + 60, NOON, "ada", ""))

    assert len(await labels(api, "/tenant/keys")) == 5


async def test_reset_removes_the_usage_and_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """The change has its author and reason; a caller with a name cannot choose another one."""
    policy = tenants(acme=10)
    api = Api(policy, authorize=lambda request: "ada")
    handle = await api.handle("acme", "tenant")

    with caplog.at_level(logging.WARNING):
        answer = await api.send(
            "POST", f"/tenant/keys/{handle}/reset", {"reason": "paid\nagain", "by": "eve"}
        )

    assert (answer.status, answer.body) == (204, b"")
    assert policy.local.peek("acme").remaining == 10
    assert caplog.messages == [
        "key of a limit changed: action=reset policy=tenant key=acme by=ada reason=paid again"
    ]
    [action] = (await api.get("/actions"))["actions"]
    assert action == {
        "at": "2027-01-15T08:00:00Z",
        "by": "ada",
        "what": "reset",
        "policy": "tenant",
        "key": handle,
        "label": "acme",
        "reason": "paid again",
    }
    assert (await api.send("POST", f"/tenant/keys/{handle}/reset")).status == 204


async def test_block_and_its_end_are_recorded() -> None:
    """Without a store for other processes, the block is local; it precedes other keys in lists."""
    policy = tenants(acme=1, big=10)
    api = Api(policy)
    handle = await api.handle("acme", "tenant")
    path = f"/tenant/keys/{handle}/block"

    answer = await api.send("PUT", path, {"seconds": 3600, "reason": "abuse", "by": "grace"})

    assert content(answer) == {
        "policy": "tenant",
        "key": handle,
        "label": "acme",
        "blocked_until": "2027-01-15T09:00:00Z",
        "reason": "abuse",
        "by": "grace",
        "local": True,
    }
    page = (await api.get("/tenant/keys"))["keys"]
    assert [(key["label"], key["blocked_until"]) for key in page] == [
        ("acme", "2027-01-15T09:00:00Z"),
        ("big", None),
    ]
    assert policy.rejection_of("acme") is not None
    assert (await api.send("DELETE", path, {"reason": "talked"})).status == 204
    assert policy.rejection_of("acme") is None
    again = await api.send("DELETE", path)
    assert (again.status, content(again)["detail"]) == (404, "Not found: this key is not blocked.")
    await api.send("PUT", "/tenant", {"limit": "9/minute", "reason": "launch"})
    await api.send("DELETE", "/tenant")
    actions = (await api.get("/actions"))["actions"]
    assert [(action["what"], action["label"], action["reason"]) for action in actions] == [
        ("restore", None, ""),
        ("set", None, "launch"),
        ("unblock", "acme", "talked"),
        ("block", "acme", "abuse"),
    ]
    assert len((await api.get("/actions?limit=2"))["actions"]) == 2


async def test_block_that_has_ended_is_not_listed() -> None:
    """Its key can be blocked again."""
    policy = tenants(acme=10)
    api = Api(policy)
    path = f"/tenant/keys/{await api.handle('acme', 'tenant')}/block"
    await api.send("PUT", path, {"seconds": 60})

    api.clock.advance(60)

    [key] = (await api.get("/tenant/keys"))["keys"]
    assert key["blocked_until"] is None
    assert (await api.send("DELETE", path)).status == 404


async def test_number_of_blocked_keys_is_bounded() -> None:
    """A further one gets 409; the end of a blocked one can be changed."""
    policy = tenants(a=1, b=1)
    api = Api(policy)
    api.blocks.max_keys = 1
    first, second = [f"/tenant/keys/{await api.handle(key, 'tenant')}/block" for key in "ab"]

    statuses = [
        (await api.send("PUT", path, {"seconds": 60})).status for path in (first, second, first)
    ]

    assert statuses == [200, 409, 200]


async def test_block_is_stored_before_it_applies() -> None:
    """`keep_block` says whether other processes apply it; if it fails, nothing changes."""
    kept = list[tuple[str, Hashable, float]]()

    async def keep_block(policy: Policy, key: Hashable, block: KeyBlock) -> bool:
        kept.append((policy.name, key, block.until))
        if len(kept) > 2:
            raise ProblemError(503, "Service unavailable: the store failed.")
        return True

    policy = tenants(acme=1)
    api = Api(policy, keep_block=keep_block)
    path = f"/tenant/keys/{await api.handle('acme', 'tenant')}/block"

    blocked = await api.send("PUT", path, {"seconds": 60})
    await api.send("DELETE", path)
    failed = await api.send("PUT", path, {"seconds": 60})

    assert kept[:2] == [("tenant", "acme", NOON + 60), ("tenant", "acme", 0.0)]
    assert (content(blocked)["local"], failed.status) == (False, 503)
    assert policy.rejection_of("acme") is None


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("GET", "/unknown/keys", None, 404, "no policy has this name; list them"),
        ("POST", "/unknown/keys/{key}/reset", None, 404, "no policy has this name; list them"),
        ("POST", "/tenant/keys/acme/reset", None, 404, "list the keys of the policy, or look one"),
        ("POST", f"/tenant/keys/k_{'0' * 32}/reset", None, 404, "this process knows no key with"),
        ("PUT", f"/tenant/keys/k_{'0' * 32}/block", {"seconds": 60}, 404, "knows no key with"),
        ("DELETE", f"/tenant/keys/k_{'0' * 32}/block", None, 404, "this process knows no key wit"),
        ("PUT", "/tenant/keys/{key}/block", {"seconds": 59}, 422, '"loc":["seconds"]'),
        ("PUT", "/tenant/keys/{key}/block", {"seconds": 86401}, 422, '"loc":["seconds"]'),
        ("PUT", "/tenant/keys/{key}/block", {"reason": ""}, 422, '["seconds"],"msg":"is missing"'),
        ("PUT", "/tenant/keys/{key}/block", {"seconds": 60, "x": 1}, 422, "is not a known field"),
        ("PUT", "/tenant/keys/{key}/block", "text", 422, "Expected"),
        ("POST", "/tenant/keys/{key}/reset", {"reason": "x" * 201}, 422, '"loc":["reason"]'),
        ("POST", "/tenant/keys/{key}/block", None, 405, "Allowed methods: PUT, DELETE"),
        ("GET", "/tenant/keys/{key}/reset", None, 405, "Allowed methods: POST"),
        ("GET", "/tenant/keys?near=1.1", None, 422, "must be a number from 0 to 1, got '1.1'"),
        ("GET", "/tenant/keys?near=nan", None, 422, "must be a number from 0 to 1, got 'nan'"),
        ("GET", "/tenant/keys?limit=1001", None, 422, "must be an integer from 1 to 1000"),
        ("GET", "/tenant/keys?cursor=x", None, 422, "must be `next` of the previous page"),
        ("GET", "/tenant/keys?cursor=WyJhIiwxXQ", None, 422, "must be `next` of the previous pag"),
        ("GET", "/tenant/keys?cursor=WzEsMV0", None, 422, "must be `next` of the previous page"),
        ("GET", "/tenant/keys?q=", None, 422, "must have 1 to 300 characters"),
        ("GET", "/tenant/keys?name=a", None, 422, "is not a known parameter"),
        ("GET", "/rejections?limit=201", None, 422, "must be an integer from 1 to 200"),
    ],
)
async def test_invalid_request_is_rejected(
    method: str, path: str, body: object, status: int, detail: str
) -> None:
    """Problem details say what to send instead; nothing is changed."""
    policy = tenants(acme=5)
    api = Api(policy)
    path = path.replace("{key}", await api.handle("acme", "tenant"))

    answer = await api.send(method, path, body)

    assert (answer.status, detail in answer.body.decode()) == (status, True), answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert policy.local.peek("acme").remaining == 5


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tenant/keys"),
        ("GET", "/rejections"),
        ("GET", "/actions"),
        ("POST", "/tenant/keys/{key}/reset"),
        ("PUT", "/tenant/keys/{key}/block"),
        ("DELETE", "/tenant/keys/{key}/block"),
        ("PUT", "/tenant"),
        ("DELETE", "/tenant"),
    ],
)
async def test_change_needs_the_right_to_change_limits(method: str, path: str) -> None:
    """A caller with the right to read lists everything, and changes nothing."""
    policy = tenants(acme=5)
    api = Api(policy, authorize=lambda request: Person("ada", can={"read", "ack", "thresholds"}))
    path = path.replace("{key}", await api.handle("acme", "tenant"))

    answer = await api.send(
        method, path, {"seconds": 60, "limit": "1/day"} if method == "PUT" else None
    )

    assert answer.status == (200 if method == "GET" else 403)
    assert (policy.version, policy.rejection_of("acme")) == (0, None)
    assert api.exchanges == [] or method != "GET"


async def test_handle_is_the_same_in_processes_with_the_same_secret() -> None:
    """Another process finds the key in its own table, in its blocks or in its rejections."""
    first = Api(tenants(acme=10), secret=b"s" * 32)
    handle = await first.handle("acme", "tenant")
    counted, blocked, rejected, unaware = (
        Api(policy, secret=b"s" * 32)
        for policy in (tenants(acme=1, other=1), tenants(), tenants(), tenants(other=1))
    )
    blocked.blocks.set(blocked.policies[0], "zero", KeyBlock(NOON + 60, NOON, "ada", ""))
    blocked.blocks.set(blocked.policies[0], "acme", KeyBlock(NOON + 60, NOON, "ada", ""))
    rejected.rejections.add(rejected.policies[0], "acme", None)
    rejected.rejections.add(rejected.policies[0], "other", None)

    statuses = [
        (await api.send("POST", f"/tenant/keys/{handle}/reset")).status
        for api in (counted, blocked, rejected, unaware)
    ]

    assert statuses == [204, 204, 204, 404]


async def test_handle_of_another_policy_is_unknown() -> None:
    """The same key of two limits has two handles."""
    other = Policy("10/minute", name="other", key=keys.annotation("tenant"))
    other.local.hit("acme")
    api = Api(tenants(acme=5), other)
    handle = await api.handle("acme", "tenant")

    assert (await api.send("POST", f"/other/keys/{handle}/reset")).status == 404


async def test_number_of_stored_handles_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key whose handle is no longer stored is found in the table."""
    monkeypatch.setattr(handles, "_MAX_KEYS", 1)
    api = Api(tenants(a=10, b=9))
    first = (await api.get("/tenant/keys"))["keys"][0]["key"]

    assert (await api.send("POST", f"/tenant/keys/{first}/reset")).status == 204


async def test_key_of_any_type_has_a_handle() -> None:
    """Keys that other processes cannot have are found in this one."""
    policy = Policy("10/minute", name="uuid", key=keys.readable(lambda scope: UUID(int=7)))
    policy.local.hit(UUID(int=7), 10)
    api = Api(policy)

    [key] = (await api.get("/uuid/keys"))["keys"]

    assert key["label"] == "00000000-0000-0000-0000-000000000007"
    assert (await api.send("POST", f"/uuid/keys/{key['key']}/reset")).status == 204


async def test_secret_key_of_any_type_is_hidden() -> None:
    """Even a key without a common encoding has a hash."""
    policy = Policy("10/minute", name="float", key=lambda scope: 1.5)
    policy.local.hit(1.5, 10)

    [label] = await labels(Api(policy), "/float/keys")

    assert re.fullmatch("function …[0-9a-f]{4}", label)


async def test_rejections_are_listed_newest_first() -> None:
    """Each key of a policy is listed once, with its count and its route."""
    policy = tenants(acme=10)
    api = Api(policy)
    for key in ("a", "b", "a"):
        api.rejections.add(policy, key, None)
        api.clock.advance(1)

    body = await api.get("/rejections")

    first, second = body["rejections"]
    assert re.fullmatch("k_[0-9a-f]{32}", first.pop("key"))
    assert first == {
        "policy": "tenant",
        "label": "a",
        "count": 2,
        "first_at": "2027-01-15T08:00:00Z",
        "at": "2027-01-15T08:00:02Z",
        "route": None,
    }
    assert (second["label"], body["local"]) == ("b", True)
    assert len((await api.get("/rejections?limit=1"))["rejections"]) == 1

"""Numbers of all processes that share the alert store."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from prometheus_client import CollectorRegistry

from tokenpulse_mw import HttpMetrics
from tokenpulse_mw.dashboard import EngineFacts, Facts, Streak, fleet, schemas
from tokenpulse_mw.dashboard.fleet import MAX_PAYLOAD_BYTES, Sample, decode, encode

from .board import INTERVAL, START, Board, Clocks, exchange
from .test_endpoints import request
from .test_state import provider_of

pytestmark = pytest.mark.anyio


class Stored(NamedTuple):
    """A stored sample."""

    process: str
    number: int
    at: float
    payload: bytes


class Store:
    """Samples in memory; `error` makes all methods fail."""

    def __init__(self, clocks: Clocks) -> None:
        self.rows: dict[tuple[str, int], Stored] = {}
        self.until, self.calls, self.hangs = -math.inf, 0, False
        self.error: Exception | None = None
        self._clocks = clocks

    async def _call(self) -> None:
        self.calls += 1
        if self.hangs:
            await anyio.sleep_forever()
        if self.error is not None:
            raise self.error

    async def watch_samples(self, seconds: float, /) -> None:
        """Request samples."""
        await self._call()
        self.until = self._clocks.wall + seconds

    async def samples_watched(self) -> float:
        """Return the seconds for which samples are requested."""
        await self._call()
        return self.until - self._clocks.wall

    async def put_sample(self, process: str, number: int, payload: bytes, /) -> None:
        """Store a sample."""
        await self._call()
        self.rows[process, number] = Stored(process, number, self._clocks.wall, payload)

    async def samples(self, after: float, limit: int, /) -> tuple[float, Sequence[Stored]]:
        """Return the oldest samples after a time."""
        await self._call()
        rows = sorted((row for row in self.rows.values() if row.at > after), key=lambda r: r.at)
        return self._clocks.wall, rows[:limit]


class Processes:
    """Processes with one store and one clock."""

    def __init__(self, count: int, **options: Any) -> None:
        self.clocks = Clocks()
        self.store = Store(self.clocks)
        names = [f"gw-{number}" for number in range(count)]
        engine = EngineFacts(engine=schemas.Engine(store="ok", alerts=True), live=frozenset(names))
        self.boards = [
            Board(
                clocks=self.clocks,
                store=self.store,
                member=name,
                engine=engine,
                options={"timeout": 5.0, **options},
            )
            for name in names
        ]

    async def step(self, *requests: int, publish: bool = True) -> None:
        """Count requests of each process, end the slot, and store it."""
        for board, number in zip(self.boards, requests, strict=True):
            for _ in range(number):
                board.metrics.on_open()
                board.metrics(exchange())
        self.clocks.advance(INTERVAL)
        for board in self.boards:
            await board.dashboard.sampler.sample()
        if publish:
            await self.publish()

    async def publish(self) -> None:
        """Store what the processes have."""
        for board in self.boards:
            assert board.dashboard._fleet is not None
            await board.dashboard._fleet.publish()

    def requests(self, index: int = 0, count: int = 4) -> list[float | None]:
        """Return the last requests by the answer of a process."""
        series = self.boards[index].get("/series?range=900")
        return list(series["series"]["requests"][0][-count:]) if series["names"] else []


async def test_any_process_answers_for_all() -> None:
    """Rates, series and scope are those of all processes, in every process."""
    processes = Processes(3)
    for board in processes.boards:
        board.get("/state")  # a page is open
    await processes.step(0, 0, 0)
    await processes.step(1, 2, 4)
    await processes.step(1, 0, 0)
    processes.clocks.advance(5)

    for index, board in enumerate(processes.boards):
        state = board.get("/state")
        assert state["scope"] == {"kind": "fleet", "processes": 3, "missing": 0}
        assert provider_of(state)["requests_per_minute"] == 16
        assert processes.requests(index) == [None, None, 7, 1]
        assert board.get("/routes")["routes"][0]["requests_per_minute"] == 16
        assert board.get("/state")["rates"]["requests_per_second"] == pytest.approx(16 / 60, 1e-4)
        assert state["providers"][0]["models"][0]["requests_per_minute"] == 16


async def test_nothing_is_stored_without_a_page() -> None:
    """A process only reads if a page is open; it begins with the whole hour."""
    processes = Processes(2)
    await processes.step(0, 0)
    await processes.step(1, 2)
    assert processes.store.rows == {}

    processes.boards[0].get("/state")
    await processes.step(3, 4)
    processes.clocks.advance(5)
    assert processes.requests() == [None, None, 3, 7]

    processes.clocks.advance(400)
    before = len(processes.store.rows)
    await processes.step(1, 1)
    assert len(processes.store.rows) == before


async def test_single_process_does_not_use_the_store() -> None:
    """A fleet of one has nothing to add."""
    processes = Processes(1)
    state = processes.boards[0].get("/state")
    await processes.step(1)

    assert state["scope"] == {"kind": "fleet", "processes": 1, "missing": 0}
    assert processes.store.calls == 0


async def test_sample_counts_once_however_often_it_is_stored_and_read() -> None:
    """A call that failed after it took effect is repeated with the next slot."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(1, 1)
    put = processes.store.put_sample

    async def put_and_fail(process: str, number: int, payload: bytes, /) -> None:
        await put(process, number, payload)
        raise OSError("connection lost")

    processes.store.put_sample = put_and_fail  # type: ignore[method-assign]
    await processes.step(1, 1)
    processes.clocks.advance(5)
    first = processes.requests()
    processes.store.put_sample = put  # type: ignore[method-assign]
    await processes.publish()
    rows = len(processes.store.rows)
    await processes.publish()  # no new slot
    assert len(processes.store.rows) == rows
    for _ in range(3):
        processes.clocks.advance(5)
        assert processes.requests() == first == [None, None, 2, 2]


async def test_process_that_stopped_is_missing() -> None:
    """Its numbers of before stay; the rates are those of the others, and the answer says so."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(1, 1)
    stopped = processes.boards.pop()
    for _ in range(4):
        await processes.step(1)
    processes.clocks.advance(5)

    state = processes.boards[0].get("/state")
    assert state["scope"] == {"kind": "fleet", "processes": 1, "missing": 1}
    assert processes.requests(count=5) == [2, 1, 1, 1, 1]
    assert provider_of(state)["requests_per_minute"] == 4

    processes.boards[0].engine = replace(stopped.engine, live=frozenset(["gw-0"]))
    for _ in range(250):
        await processes.step(0)
    assert processes.boards[0].get("/state")["scope"]["missing"] == 0
    calls = processes.store.calls
    processes.clocks.advance(5)
    processes.boards[0].get("/state")
    assert processes.store.calls == calls


async def test_process_that_is_no_longer_alive_is_not_waited_for() -> None:
    """Its heartbeat ends before its samples are too old; its numbers of before stay."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(1, 1)
    killed = processes.boards.pop()
    await processes.step(3)
    processes.clocks.advance(5)
    waits = processes.requests()

    processes.boards[0].engine = replace(killed.engine, live=frozenset(["gw-0"]))
    processes.clocks.advance(5)

    assert (waits, processes.requests()) == ([None, None, None, 2], [None, None, 2, 3])
    state = processes.boards[0].get("/state")
    assert state["scope"] == {"kind": "fleet", "processes": 1, "missing": 0}


async def test_process_without_heartbeats_that_stores_samples_is_included() -> None:
    """It is alive, so a sum without it would be too low."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    processes.clocks.advance(5)
    processes.boards[0].get("/state")
    processes.boards[0].engine = replace(processes.boards[0].engine, live=frozenset(["gw-0"]))
    await processes.step(1, 2)

    assert processes.boards[0].get("/state")["scope"] == {
        "kind": "fleet",
        "processes": 2,
        "missing": 0,
    }
    assert processes.requests()[-1] == 3


async def test_slot_that_a_process_has_missed_is_a_gap() -> None:
    """The sum would be too low."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(2, 2)
    processes.boards[1].metrics.clear()
    await processes.step(1, 1)
    await processes.step(1, 1)
    processes.clocks.advance(5)

    assert processes.requests() == [None, 4, None, 2]


async def test_start_of_a_process_is_no_gap() -> None:
    """It has no requests before; a slot that it has skipped is a gap."""
    processes = Processes(2)
    late = processes.boards.pop()
    processes.boards[0].get("/state")
    await processes.step(0)
    await processes.step(1)
    processes.boards.append(late)
    await processes.step(1, 1)
    await processes.step(1, 1)
    await processes.step(1, 1)
    processes.clocks.advance(5)
    assert processes.requests() == [1, 1, 2, 2]

    processes.clocks.advance(-5)
    processes.boards.remove(late)
    await processes.step(1)
    processes.boards.append(late)
    await processes.step(1, 1)
    await processes.step(1, 1)
    processes.clocks.advance(5)
    assert processes.requests() == [2, None, None, 2]


async def test_newest_slot_is_shown_when_all_have_stored_it() -> None:
    """Otherwise each refresh would show a dip."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(1, 1)
    await processes.step(5, 5, publish=False)
    processes.clocks.advance(5)
    before = processes.requests()
    await processes.publish()
    processes.clocks.advance(5)

    assert before == [None, None, None, 2]
    assert processes.requests() == [None, None, 2, 10]


async def test_facts_of_all_processes_are_merged() -> None:
    """Requests in progress, failures in a row, limits of vendors, deliveries and marks."""
    processes = Processes(2)
    one, two = processes.boards
    one.get("/state")
    one.facts.in_flight = schemas.InFlight(1, 5.0, 0)
    two.facts.in_flight = schemas.InFlight(2, 80.0, 1)
    one.requests, two.requests = [request(1, 5.0)], [request(1, 80.0), request(2, 2.0)]
    one.facts.upstream = {"claude": schemas.Upstream(requests_remaining=5.0)}
    two.facts.upstream = {
        "claude": schemas.Upstream(requests_remaining=3.0, tokens_remaining=7.0),
        "gemini": schemas.Upstream(),
    }
    two.facts.streaks = [Streak("apikey", "k1", "claude", "", 4, START)]
    two.dashboard.on_delivery("log", "ok")
    two.dashboard.on_alert("fired", "Provider down", processes.clocks.wall)
    one.engine = replace(one.engine, sinks=["log"])
    await processes.step(0, 0)
    await processes.step(1, 1)
    processes.clocks.advance(5)

    state = one.get("/state")
    assert state["in_flight"] == {"count": 3, "oldest_seconds": 80, "stalled": 1}
    claude = provider_of(state)
    assert claude["credentials"][0]["consecutive_failures"] == 4
    assert claude["upstream"] == {
        "requests_remaining": 3,
        "tokens_remaining": 7,
        "resets_at": None,
    }
    assert state["sinks"][0]["last_ok_at"] == "2027-01-15T08:00:00Z"
    assert [mark["text"] for mark in one.get("/series")["marks"]] == ["Provider down"]
    listed = one.get("/inflight")
    assert listed["count"] == 3
    assert [item["age_seconds"] for item in listed["requests"]] == [80, 5, 2]
    assert len({item["id"] for item in listed["requests"]}) == 3


async def test_names_of_tenants_are_those_of_any_process() -> None:
    """A process that has not served a tenant shows the name that another one has stored."""
    processes = Processes(2)
    first, second = processes.boards
    for board in processes.boards:
        board.tenants = [
            schemas.Tenant(
                id=tenant, name=name, requests=1, input_tokens=1, output_tokens=1, cost_usd=None
            )
            for tenant, name in (("t-1", None), ("t-2", "Own"), ("t-3", None))
        ]
    second.facts.tenant_names = {"t-1": "Acme", "t-2": "Other"}
    first.get("/state")
    await processes.step(0, 0)
    await processes.step(1, 1)
    processes.clocks.advance(5)
    first.get("/state")

    tenants = first.get("/tenants")["tenants"]
    assert [tenant["id"] for tenant in first.get("/tenants?q=acme")["tenants"]] == ["t-1"]
    assert [tenant["name"] for tenant in tenants] == ["Acme", "Own", None]


async def test_failing_store_falls_back_to_this_process(caplog: pytest.LogCaptureFixture) -> None:
    """The page shows what is known here, says so, and recovers."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(1, 2)
    processes.store.error = OSError("down")
    await processes.step(3, 4)
    processes.clocks.advance(5)
    failing, requests = processes.boards[0].get("/state"), processes.requests()
    processes.store.error = None
    await processes.publish()
    processes.clocks.advance(5)
    recovered = processes.boards[0].get("/state")

    assert failing["engine"]["store"] == "failing"
    assert failing["status"] == "warn"
    assert failing["scope"] == {"kind": "process", "processes": 1, "missing": 0}
    assert requests == [None, None, 1, 3]
    assert recovered["engine"]["store"] == "ok"
    assert recovered["scope"]["processes"] == 2
    assert processes.requests() == [None, None, 3, 7]
    assert caplog.text.count("live numbers not stored") == 2  # once for each process


async def test_store_that_hangs_delays_one_answer_only() -> None:
    """After the timeout, answers are those of this process at once."""
    processes = Processes(2, timeout=0.001)
    await processes.step(0, 0)
    processes.store.hangs, processes.store.calls = True, 0
    states = [processes.boards[0].get("/state") for _ in range(3)]

    assert {state["scope"]["kind"] for state in states} == {"process"}
    assert processes.store.calls == 1


async def test_other_buckets_of_a_process_are_counted_without_quantiles() -> None:
    """During a deployment, processes may have other buckets."""
    processes = Processes(2)
    processes.boards[1].metrics = HttpMetrics(CollectorRegistry(), buckets=(0.5, 5.0))
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(1, 1)
    await processes.step(1, 0)
    processes.clocks.advance(5)

    series = processes.boards[0].get("/series?range=900")["series"]
    assert series["requests"][0][-2:] == [2, 1]
    assert series["duration_p95"][0][-2:] == [None, pytest.approx(0.955)]


async def test_own_buckets_that_change_begin_again() -> None:
    """The samples of the others are read again."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(1, 1)
    processes.clocks.advance(5)
    processes.boards[0].get("/state")
    processes.boards[0].metrics = HttpMetrics(CollectorRegistry(), buckets=(0.5, 5.0))
    processes.clocks.advance(-5)
    await processes.step(1, 1)
    processes.clocks.advance(5)

    assert processes.requests() == [None, None, 1, None]


def sample(**values: Any) -> Sample:
    """Return a sample without numbers."""
    fields: dict[str, Any] = {
        "protocol": 1,
        "interval": INTERVAL,
        "first": int(START // INTERVAL),
        "in_flight": [],
        "bounds": [],
        "rows": {},
        "models": {},
        "routes": 0,
        "facts": Facts(member="gw-1"),
    }
    return Sample(**{**fields, **values})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"damaged",
        encode(sample())[:-3],
        encode(sample(protocol=2)),
        zlib.compress(msgspec.msgpack.encode([1, 2])),
        zlib.compress(b"\xc1"),
        zlib.compress(bytes(17 * 1024 * 1024)),
    ],
)
async def test_damaged_sample_is_skipped(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It neither fails the answer nor is expanded without a bound."""
    processes = Processes(2)
    await processes.step(1, 1, publish=False)
    await processes.store.put_sample("other", 1, payload)

    with caplog.at_level(logging.WARNING):
        state = processes.boards[0].get("/state")

    assert state["scope"] == {"kind": "fleet", "processes": 1, "missing": 1}
    assert "live numbers of another process skipped: process=other" in caplog.text
    with pytest.raises(ValueError, match="sample"):
        decode(payload)


@pytest.mark.parametrize(
    "values",
    [
        {"interval": 60.0, "in_flight": [1.0]},
        {
            "first": int(START // INTERVAL) + 1,
            "in_flight": [1.0],
            "rows": {"provider": {"claude": b"1234"}, "other": {}},
        },
        {"first": 5, "in_flight": [1.0]},
    ],
)
async def test_sample_that_does_not_fit_adds_nothing(values: dict[str, Any]) -> None:
    """Other intervals, lengths and times are not numbers of this hour; its facts count."""
    processes = Processes(2)
    await processes.step(1, 1, publish=False)
    await processes.step(1, 1, publish=False)
    await processes.store.put_sample("other", 1, encode(sample(**values)))
    processes.clocks.advance(5)

    assert processes.requests() == [None, None, None, 1]
    assert processes.boards[0].get("/state")["scope"]["processes"] == 2


@pytest.mark.parametrize(("limit", "slots"), [(MAX_PAYLOAD_BYTES, 38), (30_000, 19), (100, 0)])
async def test_large_hour_is_stored_in_part(
    limit: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload is bounded: the newest slots are sent; the facts always are."""
    monkeypatch.setattr(fleet, "MAX_PAYLOAD_BYTES", limit)
    processes = Processes(2, slots=240)
    big = processes.boards[1]
    big.metrics = HttpMetrics(CollectorRegistry())

    async def fill(seed: int) -> None:
        for number in range(60):
            for _ in range((number * seed * 7919) % 11 + 1):
                big.metrics.on_open()
                big.metrics(
                    exchange(
                        route=f"/{number}",
                        provider=f"p{number}",
                        duration=(number * seed % 97) / 3,
                    )
                )
        await processes.step(0, 0, publish=False)

    for seed in range(1, 40):
        await fill(seed)
    processes.boards[0].get("/state")
    await processes.publish()
    processes.clocks.advance(5)

    payload = list(processes.store.rows.values())[1].payload
    assert len(payload) <= limit or slots == 0
    assert len(decode(payload).in_flight) == slots
    assert processes.boards[0].get("/state")["scope"]["processes"] == 2


async def test_many_samples_are_read_in_pages() -> None:
    """No sample is missing at the border of a page."""
    processes = Processes(2)
    processes.boards[1].get("/state")
    await processes.step(0, 0)
    for number in range(1, 50):
        await processes.step(number, 1)
        if number % 10 == 0:
            processes.boards[1].get("/state")
    processes.clocks.advance(5)

    assert processes.requests(0, 49) == [number + 1 for number in range(1, 50)]


async def test_refresh_that_is_cancelled_counts_nothing_twice() -> None:
    """A timeout may end it between any two slots."""
    processes = Processes(2)
    processes.boards[0].get("/state")
    await processes.step(0, 0)
    await processes.step(1, 2)
    await processes.step(1, 2)
    merged = processes.boards[0].dashboard._fleet
    assert merged is not None
    for turns in range(8):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(merged.refresh)
            for _ in range(turns):
                await checkpoint()
            tasks.cancel_scope.cancel()
    processes.clocks.advance(5)

    assert processes.requests() == [None, None, 3, 3]


async def test_refresh_during_a_sample_loses_no_slot() -> None:
    """A slot is added when it is complete."""
    processes = Processes(1)
    board = processes.boards[0]
    merged, sampler = board.dashboard._fleet, board.dashboard.sampler
    assert merged is not None
    for _ in range(3):
        for number in range(80):
            board.metrics.on_open()
            board.metrics(exchange(route=f"/{number}"))
        processes.clocks.advance(INTERVAL)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sampler.sample)
            for _ in range(10):
                await merged.refresh()
                await checkpoint()
    await merged.refresh()

    assert merged.history is not None
    last = merged.history.last(2)
    assert merged.history.counts("provider", "claude", "requests", last) == [80, 80]


async def test_dashboard_stores_each_slot_in_the_background() -> None:
    """The task begins with the lifespan, and waits for new slots."""
    processes = Processes(2, interval=0.02)
    processes.store.until = math.inf
    board = processes.boards[0]
    board.dashboard._fleet._jitter = lambda: 0.0  # type: ignore[union-attr]
    stored = anyio.Event()
    put = processes.store.put_sample

    async def put_and_notify(process: str, number: int, payload: bytes, /) -> None:
        await put(process, number, payload)
        stored.set()

    processes.store.put_sample = put_and_notify  # type: ignore[method-assign]
    real = board.dashboard.sampler
    async with board.dashboard.running(), anyio.create_task_group() as tasks:

        async def tick() -> None:
            while True:
                processes.clocks.advance(0.02)
                await real.sample()
                await anyio.sleep(0.001)

        tasks.start_soon(tick)
        with anyio.fail_after(60):
            await stored.wait()
        tasks.cancel_scope.cancel()
    board.dashboard.clear()

    assert len(processes.store.rows) >= 1

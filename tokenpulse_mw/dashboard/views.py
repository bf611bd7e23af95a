"""Bodies of the responses, made from the history and the facts of the processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from anyio.lowlevel import checkpoint

from . import schemas
from .facts import MAX_MARKS, EngineFacts, Facts, Mark, StoreFacts, Streak
from .history import FAULTS, OTHERS, History
from .totals import model_name

WINDOW_SECONDS = 60.0
_MAX_MODELS = 10  # of a provider
_MAX_CREDENTIALS = 20  # of a provider, the worst first
_MAX_PROVIDERS = 50
_UNKNOWN = "unknown"  # provider of a credential whose provider is not known
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SECONDS = 253_402_300_799  # the end of the year 9999


def to_time(seconds: float) -> datetime:
    """Return a time in UTC, rounded to milliseconds."""
    return _EPOCH + timedelta(milliseconds=round(1000 * min(max(seconds, 0), _MAX_SECONDS)))


class Window:
    """The last minute of a history.

    Args:
        history: The history; None before the first sample.
        interval: Seconds of a slot.

    Attributes:
        history: The argument.
        interval: The argument.
        known: The known slots of the last minute.
    """

    def __init__(self, history: History | None, interval: float) -> None:
        self.history, self.interval = history, interval
        self.known: list[int] = []
        if history is not None:
            self.known = history.known(history.last(max(1, round(WINDOW_SECONDS / interval))))

    def names(self, kind: str) -> list[str]:
        """Return the names with rings, those with most requests in the last hour first."""
        if self.history is None:
            return []
        history, table = self.history, self.history.tables[kind]
        slots = history.known(history.last(history.size))
        totals = {name: history.total(kind, name, "requests", slots) or 0.0 for name in table.names}
        return sorted(totals, key=lambda name: (-totals[name], name))

    def total(self, kind: str, name: str, count: str) -> float | None:
        """Return a count of the last minute; None if it is unknown."""
        return None if self.history is None else self.history.total(kind, name, count, self.known)

    def per_minute(self, kind: str, name: str, count: str) -> float | None:
        """Return a rate of the last minute; None if it is unknown."""
        total, known = self.total(kind, name, count), self.known
        if total is None or not known:
            return None
        return rounded(total * 60 / (len(known) * self.interval))

    def share(self, kind: str, name: str, part: str, of: str = "requests") -> float | None:
        """Return a share of the requests of the last minute; None without requests."""
        return share_of(self.total(kind, name, part), self.total(kind, name, of))

    def quantile(self, kind: str, name: str, histogram: str, quantile: float) -> float | None:
        """Return a quantile of the last minute; None without observations."""
        if self.history is None:
            return None
        value = self.history.quantile(kind, name, histogram, quantile, self.known)
        return rounded(value)

    def tokens(self, kind: str, name: str) -> schemas.Tokens:
        """Return the tokens a minute."""
        return schemas.Tokens(
            self.per_minute(kind, name, "input_tokens"),
            self.per_minute(kind, name, "output_tokens"),
        )


def rounded(value: float | None) -> float | None:
    """Return a number with six significant digits, which is shorter in JSON."""
    return None if value is None else float(f"{value:.6g}")


def share_of(part: float | None, whole: float | None) -> float | None:
    """Return a share, or None if it is unknown or there is nothing."""
    return rounded(min(part / whole, 1.0)) if part is not None and whole else None


def sum_of(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values; None if none is known."""
    known = [value for value in values if value is not None]
    return rounded(sum(known)) if known else None


def rates(window: Window, store: StoreFacts) -> schemas.Rates:
    """Return the rates of all requests."""
    names = _all_names(window, "provider")

    def total(count: str) -> float | None:
        return sum_of(window.per_minute("provider", name, count) for name in names)

    requests = total("requests") if names else (0.0 if window.known else None)
    return schemas.Rates(
        window_seconds=WINDOW_SECONDS,
        requests_per_second=None if requests is None else rounded(requests / 60),
        error_share=share_of(total("errors"), requests),
        limited_per_minute=total("limited") if names else requests,
        tokens_per_minute=schemas.Tokens(total("input_tokens"), total("output_tokens"))
        if names
        else schemas.Tokens(requests, requests),
        cost_usd_today=store.cost_usd_today,
    )


def faults(window: Window) -> schemas.Faults:
    """Return the failures a minute by fault."""
    names = _all_names(window, "provider")
    return schemas.Faults(
        **{
            fault: sum_of(window.per_minute("provider", name, fault) for name in names)
            for fault in FAULTS
        }
    )


def in_flight(facts: Sequence[Facts]) -> schemas.InFlight:
    """Return the requests in progress of all processes."""
    parts = [part.in_flight for part in facts]
    counts = [part.count for part in parts if part.count is not None]
    oldest = [part.oldest_seconds for part in parts if part.oldest_seconds is not None]
    stalled = [part.stalled for part in parts if part.stalled is not None]
    return schemas.InFlight(
        sum(counts) if counts else None,
        rounded(max(oldest)) if oldest else None,
        sum(stalled) if stalled else None,
    )


async def providers(
    window: Window,
    facts: Sequence[Facts],
    *,
    listed: Iterable[str],
    active: Mapping[str, bool],
    models: Mapping[str, tuple[str, str]],
) -> list[schemas.Provider]:
    """Return the providers, those with most requests first.

    Args:
        window: The last minute.
        facts: Facts of all processes.
        listed: Names of the providers that are listed without requests, too.
        active: For each provider, if its credentials are active.
        models: Provider and name by the name under which a model is counted.
    """
    streaks, credentials = _streaks(facts), _credentials(facts)
    ranked = window.names("provider")
    names = list(dict.fromkeys([*ranked, *listed, *sorted(active), *credentials]))
    upstream = _upstream(facts)
    by_provider: dict[str, list[str]] = {}
    for counted in window.names("model"):
        if counted in models:
            by_provider.setdefault(models[counted][0], []).append(models[counted][1])
    result = []
    for name in names[:_MAX_PROVIDERS]:
        limited, ours = (
            window.per_minute("provider", name, count) for count in ("limited", "policy")
        )
        streak = streaks.get(name)
        own = credentials.get(name, [])
        result.append(
            schemas.Provider(
                name=name,
                requests_per_minute=window.per_minute("provider", name, "requests"),
                error_share=window.share("provider", name, "errors"),
                truncated_share=window.share("provider", name, "truncated"),
                p50_seconds=window.quantile("provider", name, "duration", 0.5),
                p95_seconds=window.quantile("provider", name, "duration", 0.95),
                time_to_first_token_p95_seconds=window.quantile("provider", name, "ttft", 0.95),
                tokens_per_minute=window.tokens("provider", name),
                limited_by_us_per_minute=ours,
                limited_by_vendor_per_minute=None
                if limited is None or ours is None
                else rounded(max(0.0, limited - ours)),
                credential=_activity(active.get(name)),
                credentials=own[:_MAX_CREDENTIALS],
                consecutive_failures=None if streak is None else streak.failures,
                last_success_at=_last_success(streak, own),
                usage_missing_share=window.share("provider", name, "usage_missing", "llm_requests"),
                upstream=upstream.get(name),
                models=[
                    _model(window, name, model) for model in by_provider.get(name, ())[:_MAX_MODELS]
                ],
            )
        )
        await checkpoint()
    return result


def _activity(is_active: bool | None) -> Literal["active", "inactive", "unknown"]:
    return "unknown" if is_active is None else "active" if is_active else "inactive"


def _model(window: Window, provider: str, model: str) -> schemas.Model:
    name = model_name(provider, model)
    return schemas.Model(
        model, window.per_minute("model", name, "requests"), window.tokens("model", name)
    )


def _streaks(facts: Sequence[Facts]) -> dict[str, Streak]:
    """Return the failures in a row by provider."""
    return {
        streak.id: streak
        for part in facts
        for streak in part.streaks or ()
        if streak.kind == "provider"
    }


def _credentials(facts: Sequence[Facts]) -> dict[str, list[schemas.Credential]]:
    """Return the credentials by provider, those with most failures in a row first."""
    streaks = [streak for part in facts for streak in part.streaks or ()]
    rejections = {streak.id: streak for streak in streaks if streak.kind == "auth"}
    found: dict[str, Streak] = {streak.id: streak for streak in streaks if streak.kind == "apikey"}
    result: dict[str, list[schemas.Credential]] = {}
    for name in sorted(found.keys() | rejections.keys()):
        streak, rejected = found.get(name), rejections.get(name)
        both = [item for item in (streak, rejected) if item is not None]
        owner = next((item.provider for item in both if item.provider), _UNKNOWN)
        last = 0.0 if streak is None else streak.last_success
        result.setdefault(owner, []).append(
            schemas.Credential(
                id=name,
                group=next((item.group for item in both if item.group), None),
                consecutive_failures=max(item.failures for item in both),
                rejected=None if rejected is None else rejected.failures,
                last_success_at=to_time(last) if last else None,
            )
        )
    for credentials in result.values():
        credentials.sort(key=lambda item: -(item.consecutive_failures or 0) - (item.rejected or 0))
    return result


def _last_success(
    streak: Streak | None, credentials: Sequence[schemas.Credential]
) -> datetime | None:
    times = [item.last_success_at for item in credentials if item.last_success_at is not None]
    if streak is not None and streak.last_success:
        times.append(to_time(streak.last_success))
    return max(times, default=None)


def _upstream(facts: Sequence[Facts]) -> dict[str, schemas.Upstream]:
    """Return the lowest remaining rate limits by provider."""
    result: dict[str, schemas.Upstream] = {}
    for part in facts:
        for name, quota in part.upstream.items():
            other = result.get(name)
            result[name] = quota if other is None else _lowest(other, quota)
    return result


def _lowest(a: schemas.Upstream, b: schemas.Upstream) -> schemas.Upstream:
    resets = [time for time in (a.resets_at, b.resets_at) if time is not None]
    return schemas.Upstream(
        requests_remaining=_least(a.requests_remaining, b.requests_remaining),
        tokens_remaining=_least(a.tokens_remaining, b.tokens_remaining),
        resets_at=max(resets, default=None),
    )


def _least(a: float | None, b: float | None) -> float | None:
    return min((value for value in (a, b) if value is not None), default=None)


def sinks(engine: EngineFacts, store: StoreFacts, facts: Sequence[Facts]) -> list[schemas.Sink]:
    """Return the sinks with their notifications."""
    last: dict[str, float] = {}
    for part in facts:
        for name, at in part.last_ok.items():
            last[name] = max(at, last.get(name, at))
    return [
        schemas.Sink(
            name=name,
            waiting=None if store.waiting is None else store.waiting.get(name, 0),
            dead=None if store.dead is None else store.dead.get(name, 0),
            last_ok_at=to_time(last[name]) if name in last else None,
        )
        for name in engine.sinks
    ]


def status(engine: EngineFacts, checks: Sequence[schemas.Check]) -> Literal["ok", "warn", "error"]:
    """Return the worst of the alerts, the checks and the store: "ok", "warn" or "error"."""
    states = {check.status for check in checks}
    if engine.firing.critical or "fail" in states:
        return "error"
    return (
        "warn"
        if engine.firing.warning or "warn" in states or (engine.engine.store == "failing")
        else "ok"
    )


async def series(
    window: Window,
    kind: str,
    *,
    seconds: float,
    limit: int,
    marks: Sequence[Mark],
    scope: schemas.Scope,
    now: float,
) -> schemas.SeriesOf:
    """Return the numbers of the last `seconds` by name; names beyond `limit` are summed up."""
    count, history = round(seconds / window.interval), window.history
    if history is None or history.end < 0:
        end = int(now // window.interval)
        slots = range(end - count, end)
    else:
        slots = history.last(count)
    start, stop = slots.start * window.interval, slots.stop * window.interval
    ranked = window.names(kind)
    groups = [[name] for name in ranked[:limit]]
    rest = ranked[limit:]
    if history is not None and OTHERS in history.tables[kind]:
        rest = [*rest, OTHERS]
    names = ranked[:limit]
    if rest:
        groups.append(rest)
        names = [*names, OTHERS]
    columns: dict[str, list[schemas.Numbers]] = {name: [] for name in (*_COUNTS, *_QUANTILES)}
    for group in groups:
        assert history is not None  # it has the names
        for column in _COUNTS:
            columns[column].append(await _counts(history, kind, group, column, slots))
        for column, (histogram, quantile) in _QUANTILES.items():
            columns[column].append(
                await _quantiles(history, kind, group, histogram, quantile, slots)
            )
    return schemas.SeriesOf(
        step_seconds=window.interval,
        from_=to_time(start),
        to=to_time(stop),
        scope=scope,
        names=names,
        series=schemas.Columns(
            **columns,
            in_flight=[None] * count if history is None else history.in_flight(slots),
        ),
        marks=[
            schemas.Mark(to_time(mark.at), mark.kind, mark.text)  # type: ignore[arg-type]
            for mark in sorted(marks, key=lambda mark: mark.at)[-MAX_MARKS:]
            if mark.at >= start
        ],
    )


_COUNTS = ("requests", "errors", "limited", "input_tokens", "output_tokens", "cost_usd")
_QUANTILES = {
    "duration_p95": ("duration", 0.95),
    "ttfb_p95": ("ttfb", 0.95),
    "ttft_p50": ("ttft", 0.5),
    "ttft_p95": ("ttft", 0.95),
}


async def _counts(
    history: History, kind: str, names: Sequence[str], count: str, slots: range
) -> list[float | None]:
    columns = list[list[float | None]]()
    for index, name in enumerate(names):
        if index % _NAMES_PER_STEP == 0:
            await checkpoint()
        columns.append(history.counts(kind, name, count, slots))
    if len(columns) == 1:
        return [rounded(value) for value in columns[0]]
    return [sum_of(values) for values in zip(*columns, strict=True)]


async def _quantiles(
    history: History,
    kind: str,
    names: Sequence[str],
    histogram: str,
    quantile: float,
    slots: range,
) -> list[float | None]:
    """Return a quantile of each slot; that of several names is not known."""
    result: list[float | None] = []
    for start in range(0, len(slots), _SLOTS_PER_STEP):
        part = slots[start : start + _SLOTS_PER_STEP]
        if len(names) > 1:
            result += [None] * len(part)
            continue
        values = history.quantiles(kind, names[0], histogram, quantile, part)
        result += [rounded(value) for value in values]
        await checkpoint()
    return result


_SLOTS_PER_STEP = 60
_NAMES_PER_STEP = 10


async def routes(window: Window, *, sort: str, limit: int, total: int) -> schemas.Routes:
    """Return the routes, sorted, and the number of the others.

    Args:
        window: The last minute.
        sort: "requests", "errors", "p95" or "limited".
        limit: Maximum number of routes.
        total: Number of all routes.
    """
    rows = []
    for name in window.names("route"):
        rows.append(
            schemas.Route(
                route=name,
                requests_per_minute=window.per_minute("route", name, "requests"),
                error_share=window.share("route", name, "errors"),
                p50_seconds=window.quantile("route", name, "duration", 0.5),
                p95_seconds=window.quantile("route", name, "duration", 0.95),
                limited_per_minute=window.per_minute("route", name, "limited"),
            )
        )
        await checkpoint()
    field = SORTS[sort]
    rows.sort(key=lambda row: -(getattr(row, field) or 0.0))  # stable: then by the last hour
    shown = rows[:limit]
    return schemas.Routes(shown, max(total, len(rows)) - len(shown))


SORTS = {
    "requests": "requests_per_minute",
    "errors": "error_share",
    "p95": "p95_seconds",
    "limited": "limited_per_minute",
}


def requests(facts: Sequence[Facts], limit: int) -> schemas.Requests:
    """Return the oldest requests in progress of all processes."""
    listed = [request for part in facts for request in part.requests]
    listed.sort(key=lambda request: -request.age_seconds)
    return schemas.Requests(in_flight(facts).count, listed[:limit])


def _all_names(window: Window, kind: str) -> list[str]:
    if window.history is None:
        return []
    table = window.history.tables[kind]
    return [*table.names, *([OTHERS] if OTHERS in table else [])]


def all_marks(facts: Sequence[Facts]) -> Iterator[Mark]:
    """Yield the marks of all processes."""
    for part in facts:
        yield from part.marks

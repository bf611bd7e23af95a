"""What helps before and after a change: a dry run, a test alert, and what there is to change."""

from __future__ import annotations

from inspect import getdoc

from ...problems import RefusedError, invalid
from ..rules import Rule
from ..sinks.text import plain
from . import schemas, takes
from .operation import Answer, Asked, Operation
from .parameters import whole
from .values import Body, changed
from .views import finding, when

_LONGEST = 500  # characters of what a sink says


async def evaluate(asked: Asked) -> Answer:
    """What a round would find now; nothing comes of it."""
    tried = changed(asked.engine.thresholds, asked.body, takes.EvaluationBody)
    findings = [finding(each) for each in await asked.engine.preview(tried.thresholds)]
    return Answer(schemas.Evaluation(findings))


async def list_rules(asked: Asked) -> Answer:
    """The rules that are asked in every round."""
    rules = [schemas.RuleOfEngine(name, _about(rule)) for name, rule in asked.engine.rules.items()]
    return Answer(schemas.Rules(rules))


async def list_sinks(asked: Asked) -> Answer:
    """Where alerts are told."""
    waiting = asked.engine.waiting()
    return Answer(
        schemas.Sinks([schemas.SinkOfEngine(*name, number) for name, number in waiting.items()])
    )


async def list_dead_letters(asked: Asked) -> Answer:
    """Notifications that were given up."""
    dead = [
        schemas.DeadLetter(
            id=each.notification.id,
            sink=each.notification.sink,
            alert_id=each.notification.alert_id,
            fingerprint=each.notification.fingerprint,
            attempts=each.notification.attempts,
            created_at=when(each.notification.created_at),
            at=when(each.at),
            error=each.error,
            event=each.notification.event,
        )
        for each in await asked.engine.store.dead_letters(asked.query["limit"])
    ]
    return Answer(schemas.DeadLetters(dead))


async def test_sink(asked: Asked) -> Answer:
    """Tell one sink a test alert."""
    engine, sink = asked.engine, asked.body.sink
    if sink not in engine.sinks:
        raise invalid((("sink",), f"must be one of {', '.join(engine.sinks) or 'none'}"))
    wrong = await engine.test(sink)
    if wrong is not None:
        raise RefusedError(502, f"{sink} did not take the test alert: {plain(wrong, _LONGEST)}.")
    return Answer(schemas.TestResult(sink, ok=True))


def _about(rule: Rule) -> str:
    """The first line of what a rule says of itself."""
    return (getdoc(rule) or "").partition("\n")[0]


_NEWEST = (whole("limit", "How many at most", most=1000, default=100),)

OPERATIONS = (
    Operation(
        method="POST",
        path="/evaluate",
        handle=evaluate,
        summary="What a round would find now, and with other thresholds; nothing changes",
        takes=takes.EvaluationBody,
        reads=Body,
        optional=True,
        gives=schemas.Evaluation,
    ),
    Operation(
        method="GET",
        path="/rules",
        handle=list_rules,
        summary="The rules that are asked in every round",
        gives=schemas.Rules,
    ),
    Operation(
        method="GET",
        path="/sinks",
        handle=list_sinks,
        summary="Where alerts are told, and how many notifications wait",
        gives=schemas.Sinks,
    ),
    Operation(
        method="GET",
        path="/deliveries/dead",
        handle=list_dead_letters,
        summary="Notifications that were given up, the newest first",
        gives=schemas.DeadLetters,
        query=_NEWEST,
    ),
    Operation(
        method="POST",
        path="/test",
        handle=test_sink,
        summary="Tell one sink a test alert, at once and once",
        takes=takes.TestBody,
        gives=schemas.TestResult,
        refusals=(502,),
    ),
)

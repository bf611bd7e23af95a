"""What helps before and after a change: a dry run, a test alert, and what there is to change."""

from __future__ import annotations

from inspect import getdoc

from ...web.problems import ProblemError, invalid
from ..rules import Rule
from ..sinks.text import single_line
from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .parameters import integer
from .serializers import finding, when
from .thresholds import Body, parse_thresholds

_LONGEST = 500  # characters of what a sink says


async def evaluate(asked: AdminRequest) -> AdminResponse:
    """What a round would find now; nothing comes of it."""
    tried = parse_thresholds(asked.engine.thresholds, asked.body, schemas.EvaluationBody)
    findings = [finding(each) for each in await asked.engine.dry_run(tried.thresholds)]
    return AdminResponse(schemas.Evaluation(findings))


async def list_rules(asked: AdminRequest) -> AdminResponse:
    """The rules that are asked in every round."""
    rules = [schemas.RuleOfEngine(name, _about(rule)) for name, rule in asked.engine.rules.items()]
    return AdminResponse(schemas.Rules(rules))


async def list_sinks(asked: AdminRequest) -> AdminResponse:
    """Where alerts are told."""
    waiting = asked.engine.queue_length()
    return AdminResponse(
        schemas.Sinks([schemas.SinkOfEngine(*name, number) for name, number in waiting.items()])
    )


async def list_dead_letters(asked: AdminRequest) -> AdminResponse:
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
    return AdminResponse(schemas.DeadLetters(dead))


async def test_sink(asked: AdminRequest) -> AdminResponse:
    """Tell one sink a test alert."""
    engine, sink = asked.engine, asked.body.sink
    if sink not in engine.sinks:
        raise invalid((("sink",), f"must be one of {', '.join(engine.sinks) or 'none'}"))
    wrong = await engine.test(sink)
    if wrong is not None:
        raise ProblemError(
            502, f"{sink} did not take the test alert: {single_line(wrong, _LONGEST)}."
        )
    return AdminResponse(schemas.TestResult(sink, ok=True))


def _about(rule: Rule) -> str:
    """The first line of what a rule says of itself."""
    return (getdoc(rule) or "").partition("\n")[0]


_NEWEST = (integer("limit", "How many at most", most=1000, default=100),)


OPERATIONS = (
    Operation(
        method="POST",
        path="/evaluate",
        handle=evaluate,
        summary="What a round would find now, and with other thresholds; nothing changes",
        body_type=schemas.EvaluationBody,
        raw_type=Body,
        optional=True,
        response_type=schemas.Evaluation,
    ),
    Operation(
        method="GET",
        path="/rules",
        handle=list_rules,
        summary="The rules that are asked in every round",
        response_type=schemas.Rules,
    ),
    Operation(
        method="GET",
        path="/sinks",
        handle=list_sinks,
        summary="Where alerts are told, and how many notifications wait",
        response_type=schemas.Sinks,
    ),
    Operation(
        method="GET",
        path="/deliveries/dead",
        handle=list_dead_letters,
        summary="Notifications that were given up, the newest first",
        response_type=schemas.DeadLetters,
        query=_NEWEST,
    ),
    Operation(
        method="POST",
        path="/test",
        handle=test_sink,
        summary="Tell one sink a test alert, at once and once",
        body_type=schemas.TestBody,
        response_type=schemas.TestResult,
        error_statuses=(502,),
    ),
)

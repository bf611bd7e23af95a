"""Operations on the engine: dry run, test alert, and lists of rules, sinks and dead letters."""

from __future__ import annotations

from inspect import getdoc

from ...web.parameters import integer
from ...web.problems import ProblemError, invalid
from ...web.text import single_line
from ..rules import Rule
from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .serializers import finding, to_datetime
from .thresholds import Body, parse_thresholds

_MAX_ERROR_CHARS = 500  # of the error of a rule or a sink


async def evaluate(request: AdminRequest) -> AdminResponse:
    """Return the findings of an evaluation without changing any state."""
    change = parse_thresholds(request.engine.thresholds, request.body, schemas.EvaluationBody)
    findings, errors = await request.engine.dry_run(change.thresholds)
    return AdminResponse(
        schemas.Evaluation(
            [finding(result) for result in findings],
            [
                schemas.EvaluationError(name, _shown(f"{type(error).__name__}: {error}"))
                for name, error in errors.items()
            ],
        )
    )


async def list_rules(request: AdminRequest) -> AdminResponse:
    """Return the rules."""
    rules = request.engine.rules.items()
    return AdminResponse(
        schemas.Rules([schemas.Rule(name, _description(rule)) for name, rule in rules])
    )


async def list_sinks(request: AdminRequest) -> AdminResponse:
    """Return the sinks and the lengths of their queues, of all processes."""
    lengths = await request.engine.store.queue_lengths()
    return AdminResponse(
        schemas.Sinks([schemas.Sink(sink, lengths.get(sink, 0)) for sink in request.engine.sinks])
    )


async def list_dead_letters(request: AdminRequest) -> AdminResponse:
    """Return the dead letters."""
    dead_letters = [
        schemas.DeadLetter(
            id=dead_letter.notification.id,
            sink=dead_letter.notification.sink,
            alert_id=dead_letter.notification.alert_id,
            fingerprint=dead_letter.notification.fingerprint,
            attempts=dead_letter.notification.attempts,
            created_at=to_datetime(dead_letter.notification.created_at),
            at=to_datetime(dead_letter.at),
            error=dead_letter.error,
            event=dead_letter.notification.event,
        )
        for dead_letter in await request.engine.store.dead_letters(request.query["limit"])
    ]
    return AdminResponse(schemas.DeadLetters(dead_letters))


async def test_sink(request: AdminRequest) -> AdminResponse:
    """Send a test alert to a sink."""
    engine, sink = request.engine, request.body.sink
    if sink not in engine.sinks:
        raise invalid((("sink",), f"must be one of {', '.join(engine.sinks) or 'none'}"))
    error = await engine.test(sink)
    if error is not None:
        raise ProblemError(502, f"Test alert not accepted by {sink}: {_shown(error)}.")
    return AdminResponse(schemas.TestResult(sink, ok=True))


def _shown(error: str) -> str:
    return single_line(error, _MAX_ERROR_CHARS)


def _description(rule: Rule) -> str:
    """Return the first line of a rule's docstring."""
    return (getdoc(rule) or "").partition("\n")[0]


OPERATIONS = (
    Operation(
        method="POST",
        path="/evaluate",
        handle=evaluate,
        summary="Evaluate all rules, with other thresholds if given, without changing any state",
        body_type=schemas.EvaluationBody,
        raw_type=Body,
        optional=True,
        response_type=schemas.Evaluation,
    ),
    Operation(
        method="GET",
        path="/rules",
        handle=list_rules,
        summary="List rules in the order of evaluation",
        response_type=schemas.Rules,
    ),
    Operation(
        method="GET",
        path="/sinks",
        handle=list_sinks,
        summary="List sinks and the lengths of their queues",
        response_type=schemas.Sinks,
    ),
    Operation(
        method="GET",
        path="/deliveries/dead",
        handle=list_dead_letters,
        summary="List dead letters, newest first",
        response_type=schemas.DeadLetters,
        query=(integer("limit", "Maximum number of dead letters", maximum=1000, default=100),),
    ),
    Operation(
        method="POST",
        path="/test",
        right="thresholds",
        handle=test_sink,
        summary="Send a test alert to one sink, in one attempt past its queue",
        body_type=schemas.TestBody,
        response_type=schemas.TestResult,
        error_statuses=(502,),
    ),
)

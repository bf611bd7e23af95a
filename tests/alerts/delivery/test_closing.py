"""An outbox that is closed: a last chance for what waits, and everything is let go of."""

from __future__ import annotations

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.sinks import RetryLater
from tokenpulse_mw.alerts.store import MemoryAlertStore

from ...support.waiting import PATIENCE
from .office import DeliveryHarness, Taking, make_event, seen

pytestmark = pytest.mark.anyio


class Closing(Taking):
    """A sink that holds something open, and may fail to let go of it."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.closed = False

    async def aclose(self) -> None:
        """Let go."""
        self.closed = True
        if self.error is not None:
            raise self.error


async def test_what_is_due_is_told_before_the_sinks_are_closed() -> None:
    """The last round of a gateway that ends is not left for the next process."""
    sink = Closing()
    office = DeliveryHarness({"sink": sink})
    await office.publish(make_event(), make_event("resolved"))

    await office.outbox.aclose(last_chance=PATIENCE)

    assert seen(sink.taken) == ["fired k1", "resolved k1"]
    assert sink.closed


async def test_what_cannot_be_told_any_more_is_said_and_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next process goes on with it."""
    sink = Taking(RetryLater("busy", after=60))
    office = DeliveryHarness({"sink": sink})
    await office.tell(make_event(), make_event("resolved"))

    await office.outbox.aclose(last_chance=PATIENCE)

    assert caplog.messages[-1] == "2 notifications wait for the sink sink still"
    assert len((await office.kept()).notifications) == 2


async def test_the_last_chance_ends() -> None:
    """A sink that never returns does not keep the application from ending."""

    async def hangs(event: AlertEvent) -> None:
        await anyio.sleep_forever()

    office = DeliveryHarness({"hangs": hangs})
    await office.publish(make_event())

    with anyio.fail_after(PATIENCE):
        await office.outbox.aclose(last_chance=0.01)

    assert len((await office.kept()).notifications) == 1


async def test_a_sink_that_fails_to_close_keeps_no_other_open() -> None:
    """It is told, and that is all."""
    sinks = {"first": Closing(OSError()), "plain": Taking(), "last": Closing()}
    office = DeliveryHarness(sinks)

    await office.outbox.aclose(last_chance=PATIENCE)

    assert [each.closed for each in sinks.values() if isinstance(each, Closing)] == [True, True]
    assert office.reported == [("sink first", "OSError")]


async def test_a_sink_that_never_closes_is_left_behind() -> None:
    """After the deadline of an attempt."""

    class Hanging(Taking):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    office = DeliveryHarness({"hangs": Hanging()}, deadline=0.01)

    with anyio.fail_after(PATIENCE):
        await office.outbox.aclose(last_chance=PATIENCE)

    assert office.reported == [("sink hangs", "TimeoutError")]


async def test_the_store_is_let_go_of_last() -> None:
    """When everything that happened has been kept."""
    said: list[str] = []

    class Store(MemoryAlertStore):
        async def delivered(self, notification_id: str) -> None:
            said.append("delivered")

        async def aclose(self) -> None:
            said.append("closed")

    office = DeliveryHarness({"sink": Taking()}, store=Store())
    await office.publish(make_event())

    await office.outbox.aclose(last_chance=PATIENCE)

    assert said == ["delivered", "closed"]

"""What people were last told of an alert, in every store."""

from __future__ import annotations

import pytest

from .conftest import Open
from .samples import alert, alerts, resolved


@pytest.mark.anyio
async def test_what_was_told_of_an_alert_survives_a_restart(opened: Open) -> None:
    """Or after it people would hear twice of one alert, or never of another's end."""
    silent = alert("a1")
    told = alert("a2", severity="critical", told_as="warning")
    over = resolved("a3", told_as="info")
    async with opened() as store:
        await store.commit(alerts(silent, told, over))

    async with opened() as store:
        assert (await store.load()).alerts == (silent, told)
        assert await store.alert("a3") == over


@pytest.mark.anyio
async def test_what_was_told_changes_with_every_round(opened: Open) -> None:
    """The last round counts, also where it has taken something back."""
    async with opened() as store:
        for severity in (None, "warning", "critical", None):
            await store.commit(alerts(alert(told_as=severity)))

            (kept,) = (await store.alerts()).items
            assert kept.told_as == severity


@pytest.mark.parametrize("told_as", ["", "fierce", "none"])
def test_nobody_is_told_of_a_severity_that_is_none(told_as: str) -> None:
    """That is said where the record is made."""
    with pytest.raises(
        ValueError,
        match=f"^told_as must be one of info, warning, critical, None, got {told_as!r}$",
    ):
        alert(told_as=told_as)

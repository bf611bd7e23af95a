"""Plugin of pytest: fixtures for tests of an application that has a `TokenPulse`.

pytest loads it in every environment that has this package, so the package itself is imported only
by the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest


@pytest.fixture
def tokenpulse() -> NoReturn:
    """The `TokenPulse` of the application; each project overrides this fixture."""
    pytest.fail(
        "fixture tokenpulse must return the TokenPulse of your application: "
        "define it in conftest.py, see docs/testing.md of tokenpulse-mw",
        pytrace=False,
    )


@pytest.fixture
def tokenpulse_clock(tokenpulse: Any) -> Iterator[Any]:
    """A `FakeClock` that the limits and the alerts follow; they start empty."""
    from .testing import fake_clock

    with fake_clock(tokenpulse) as clock:
        yield clock


@pytest.fixture
def tokenpulse_unlimited(tokenpulse: Any) -> Iterator[None]:
    """Switch off all limits for this test."""
    with tokenpulse.unlimited():
        yield

"""Clock that only a test advances."""

from tokenpulse_mw.testing import FakeClock

__all__ = ["FakeClock"]

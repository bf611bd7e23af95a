"""A gateway with a shared limit, to be run in processes of its own."""

from __future__ import annotations

import os

from tests.support.apps import answering
from tokenpulse_mw import RateLimitMiddleware, SharedLimiter, header

limiter = SharedLimiter(
    os.environ["LIMIT"],
    storage=os.environ["STORAGE"],
    on_error=os.environ["ON_ERROR"],
    strategy=os.environ["STRATEGY"],
    timeout=float(os.environ["TIMEOUT"]),
)
app = RateLimitMiddleware(answering(), limiter=limiter, key=header("x-api-key"))

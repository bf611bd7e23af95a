"""Gateway with a shared limit, to be run in several processes."""

from __future__ import annotations

import os

from tokenpulse_mw import RateLimitMiddleware, SharedLimiter, keys

from .apps import answering

limiter = SharedLimiter(
    os.environ["LIMIT"],
    storage=os.environ["STORAGE"],
    on_error=os.environ["ON_ERROR"],
    strategy=os.environ["STRATEGY"],
    timeout=float(os.environ["TIMEOUT"]),
)
app = RateLimitMiddleware(answering(), limiter=limiter, key=keys.header("x-api-key"))

"""Statistical confidence of error rates."""

from __future__ import annotations

import math

from ..thresholds import Thresholds

_CERTAINTY = 1.6449  # the normal quantile for 95 % on one side


def confident_share(hits: int, tries: int, thresholds: Thresholds) -> float:
    """Return the share to compare with a threshold; -1 with too few requests."""
    if tries < thresholds.error_min_requests:
        return -1
    return wilson_lower_bound(hits, tries) if thresholds.error_evidence else hits / tries


def wilson_lower_bound(hits: int, tries: int) -> float:
    """Return the lower bound of the true share (95 %, one-sided).

    Wilson's score interval, https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval
    """
    share, square = hits / tries, _CERTAINTY**2
    spread = _CERTAINTY * math.sqrt(share * (1 - share) / tries + square / (4 * tries**2))
    return (share + square / (2 * tries) - spread) / (1 + square / tries)


def min_failures(thresholds: Thresholds) -> float:
    """Return the number of failures below which `error_spike` never fires."""
    share, tries = thresholds.error_rate, thresholds.error_min_requests
    if share is None:
        return math.inf
    needed = share * tries
    if thresholds.error_evidence:
        # Wilson's bound equals the threshold if the share is this many standard errors above it.
        needed += _CERTAINTY * math.sqrt(tries * share * (1 - share))
        if needed > tries:  # even if all of the minimum requests fail, it is too few
            needed = _CERTAINTY**2 * share / (1 - share)
    return max(needed * (1 - 1e-9), 1)  # slightly less, because of float rounding

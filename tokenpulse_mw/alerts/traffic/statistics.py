"""Shares of requests: whether one is surely above a threshold, or only by chance."""

from __future__ import annotations

import math

from ..thresholds import Thresholds

_CERTAINTY = 1.6449  # the normal quantile for 95 % on one side


def confident_share(hits: int, tries: int, thresholds: Thresholds) -> float:
    """The share to compare with a threshold: with too few requests it is none, which is -1."""
    if tries < thresholds.error_min_requests:
        return -1
    return wilson_lower_bound(hits, tries) if thresholds.error_evidence else hits / tries


def wilson_lower_bound(hits: int, tries: int) -> float:
    """The least share that would give `hits` of `tries` with any likelihood (95 %, one-sided).

    Wilson's score interval, https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval
    """
    share, square = hits / tries, _CERTAINTY**2
    spread = _CERTAINTY * math.sqrt(share * (1 - share) / tries + square / (4 * tries**2))
    return (share + square / (2 * tries) - spread) / (1 + square / tries)


def min_failures(thresholds: Thresholds) -> float:
    """The failures of a key below which `error_spike` never fires, however few its requests."""
    share, tries = thresholds.error_rate, thresholds.error_min_requests
    if share is None:
        return math.inf
    needed = share * tries
    if thresholds.error_evidence:
        # Wilson's bound is the threshold where the share seen is so many standard errors above.
        needed += _CERTAINTY * math.sqrt(tries * share * (1 - share))
        if needed > tries:  # all of the fewest requests are too few
            needed = _CERTAINTY**2 * share / (1 - share)
    return max(needed * (1 - 1e-9), 1)  # a little less, as floats are no exact numbers

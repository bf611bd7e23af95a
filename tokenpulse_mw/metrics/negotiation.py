"""What a scraper asks for, and the body that it gets."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple
from urllib.parse import parse_qs

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from prometheus_client.openmetrics import exposition as om

from . import text_format
from .rows import Series

_END = b"# EOF\n"


_ESCAPINGS = (om.UNDERSCORES, om.ALLOWUTF8, om.DOTS, om.VALUES)


_LEVEL = 1  # makes it a twentieth; the best level takes ten times as long for a third less


_PART = 1 << 18  # bytes that are compressed at once, in about half a millisecond


class ScrapeRequest(NamedTuple):
    """What a scraper asks for.

    Attributes:
        content_type: That of the answer.
        openmetrics: Whether the answer is OpenMetrics 1.0.0, not Prometheus text.
        escaping: How prometheus_client writes names that have other characters than letters,
            digits, `_` and `:`; ours have none.
        gzip: Whether the answer is compressed.
        names: Only samples of these names are in the answer; all when empty.
    """

    content_type: str = CONTENT_TYPE_PLAIN_0_0_4
    openmetrics: bool = False
    escaping: str = om.UNDERSCORES
    gzip: bool = False
    names: tuple[str, ...] = ()


class _Choice(NamedTuple):
    """One alternative in an `Accept` or `Accept-Encoding` header."""

    name: str
    q: float
    parameters: dict[str, str]


def negotiate(accept: str = "", accept_encoding: str = "", query: str = "") -> ScrapeRequest:
    """What a request with these headers and this query string asks for.

    Whoever does not name another format gets Prometheus text 0.0.4, which everyone reads.
    """
    choices = list(_choices(accept))
    if any(choice.name == "text/plain" for choice in choices):  # what is named, no `*` is about
        choices = [choice for choice in choices if "*" not in choice.name]
    offers = [(choice.q, _offer(choice)) for choice in choices if choice.q]
    known = [(q, offer.openmetrics, offer) for q, offer in offers if offer is not None]
    *_, best = max(known, key=lambda each: each[:2], default=(ScrapeRequest(),))
    names = tuple(dict.fromkeys(parse_qs(query).get("name[]", ())))
    return best._replace(gzip=_accepts_gzip(accept_encoding), names=names)


def render_others(
    registry: CollectorRegistry,
    names: Sequence[str] = (),
    *,
    openmetrics: bool = False,
    escaping: str = om.UNDERSCORES,
) -> bytes:
    """What prometheus_client renders of `registry`, without the `# EOF` of OpenMetrics.

    Raises:
        Exception: Whatever a collector of the registry fails with.
    """
    asked = registry.restricted_registry(names) if names else registry
    if openmetrics:
        text: bytes = om.generate_latest(asked, escaping)  # type: ignore[no-untyped-call]
        return text.removesuffix(_END)
    return generate_latest(asked, escaping)


def render_body(series: Iterable[Series], rest: bytes, wanted: ScrapeRequest) -> Iterator[bytes]:
    """The answer in pieces, none of which takes long to make.

    Args:
        series: Our own families.
        rest: All others, as `rest` gives them.
        wanted: What the scraper asks for.
    """
    ours = text_format.render_chunks(series, openmetrics=wanted.openmetrics, names=wanted.names)
    others = (rest[start : start + _PART] for start in range(0, len(rest), _PART))
    whole = chain(ours, others, [_END] if wanted.openmetrics else [])
    return _compressed(whole) if wanted.gzip else whole


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    press = zlib.compressobj(_LEVEL, wbits=31)  # as gzip, whose header then has no time in it
    for piece in pieces:
        yield press.compress(piece)
    yield press.flush()


def _offer(choice: _Choice) -> ScrapeRequest | None:
    """The format that we have for `choice`, if any."""
    version = choice.parameters.get("version", "")
    if choice.name == "application/openmetrics-text" and version in ("", "1.0.0"):
        return _escaped(ScrapeRequest(om.CONTENT_TYPE_LATEST, openmetrics=True), choice)
    if choice.name == "text/plain" and version == "1.0.0":
        return _escaped(ScrapeRequest(CONTENT_TYPE_PLAIN_1_0_0), choice)
    if choice.name in ("text/plain", "text/*", "*/*") and version in ("", "0.0.4"):
        return ScrapeRequest()
    return None


def _escaped(offer: ScrapeRequest, choice: _Choice) -> ScrapeRequest:
    asked = choice.parameters.get("escaping")
    if asked is None:
        return offer
    escaping = asked if asked in _ESCAPINGS else om.UNDERSCORES
    content_type = f"{offer.content_type}; escaping={escaping}"
    return offer._replace(content_type=content_type, escaping=escaping)


def _accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip is accepted, and nothing is not liked better."""
    q = {choice.name: choice.q for choice in _choices(accept_encoding)}
    gzip = q.get("gzip", q.get("*", 0.0))
    return gzip > 0 and gzip >= q.get("identity", 0.0)


def _choices(header: str) -> Iterator[_Choice]:
    """The alternatives of a header; those whose q is no number from 0 to 1 count for nothing."""
    for part in header.lower().split(","):
        name, *rest = part.split(";")
        pairs = (each.partition("=") for each in rest)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        try:
            q = float(parameters.get("q", 1))
        except ValueError:
            continue
        if 0 <= q <= 1:
            yield _Choice(name.strip(), q, parameters)

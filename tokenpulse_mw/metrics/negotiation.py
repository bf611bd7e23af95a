"""Content negotiation of a scrape, and the response body."""

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
# Level 1 reduces the size to 5 %. Level 9 saves another third of that in ten times the time.
_GZIP_LEVEL = 1
_MAX_CHUNK_BYTES = 1 << 18  # compressed in about 0.5 ms


class ScrapeRequest(NamedTuple):
    """Negotiated format of a scrape.

    Attributes:
        content_type: Content type of the response.
        openmetrics: True for OpenMetrics 1.0.0, False for Prometheus text.
        escaping: Escaping scheme of prometheus_client for names with UTF-8 characters.
        gzip: True if the response is compressed.
        names: Names of the samples in the response; all if empty.
    """

    content_type: str = CONTENT_TYPE_PLAIN_0_0_4
    openmetrics: bool = False
    escaping: str = om.UNDERSCORES
    gzip: bool = False
    names: tuple[str, ...] = ()


class _Choice(NamedTuple):
    """Alternative in an `Accept` or `Accept-Encoding` header."""

    name: str
    q: float
    parameters: dict[str, str]


def negotiate(accept: str = "", accept_encoding: str = "", query: str = "") -> ScrapeRequest:
    """Return the format for a request with these headers and this query string.

    The default is Prometheus text 0.0.4, which every scraper can parse.
    """
    choices = list(_choices(accept))
    # A wildcard does not apply to a media type that is named (RFC 9110, section 12.5.1).
    if any(choice.name == "text/plain" for choice in choices):
        choices = [choice for choice in choices if "*" not in choice.name]
    offers = [(choice.q, _offer(choice)) for choice in choices if choice.q]
    candidates = [(q, offer.openmetrics, offer) for q, offer in offers if offer is not None]
    *_, best = max(candidates, key=lambda candidate: candidate[:2], default=(ScrapeRequest(),))
    names = tuple(dict.fromkeys(parse_qs(query).get("name[]", ())))
    return best._replace(gzip=_accepts_gzip(accept_encoding), names=names)


def render_others(
    registry: CollectorRegistry,
    names: Sequence[str] = (),
    *,
    openmetrics: bool = False,
    escaping: str = om.UNDERSCORES,
) -> bytes:
    """Render `registry` with prometheus_client, without the `# EOF` of OpenMetrics.

    Raises:
        Exception: A collector of the registry raised it.
    """
    restricted = registry.restricted_registry(names) if names else registry
    if openmetrics:
        text: bytes = om.generate_latest(restricted, escaping)  # type: ignore[no-untyped-call]
        return text.removesuffix(_END)
    return generate_latest(restricted, escaping)


def render_body(series: Iterable[Series], others: bytes, scrape: ScrapeRequest) -> Iterator[bytes]:
    """Yield the response body in chunks that each take a short time to render.

    Args:
        series: Families of this package.
        others: Other metrics, as returned by `render_others`.
        scrape: Negotiated format.
    """
    chunks = chain(
        text_format.render_chunks(series, openmetrics=scrape.openmetrics, names=scrape.names),
        (
            others[start : start + _MAX_CHUNK_BYTES]
            for start in range(0, len(others), _MAX_CHUNK_BYTES)
        ),
        [_END] if scrape.openmetrics else [],
    )
    return _compress(chunks) if scrape.gzip else chunks


def _compress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(_GZIP_LEVEL, wbits=31)  # gzip with an empty timestamp
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()


def _offer(choice: _Choice) -> ScrapeRequest | None:
    """Return the format for `choice`, or None if it is not supported."""
    version = choice.parameters.get("version", "")
    if choice.name == "application/openmetrics-text" and version in ("", "1.0.0"):
        return _escaped(ScrapeRequest(om.CONTENT_TYPE_LATEST, openmetrics=True), choice)
    if choice.name == "text/plain" and version == "1.0.0":
        return _escaped(ScrapeRequest(CONTENT_TYPE_PLAIN_1_0_0), choice)
    if choice.name in ("text/plain", "text/*", "*/*") and version in ("", "0.0.4"):
        return ScrapeRequest()
    return None


def _escaped(offer: ScrapeRequest, choice: _Choice) -> ScrapeRequest:
    escaping = choice.parameters.get("escaping")
    if escaping is None:
        return offer
    if escaping not in _ESCAPINGS:
        escaping = om.UNDERSCORES
    content_type = f"{offer.content_type}; escaping={escaping}"
    return offer._replace(content_type=content_type, escaping=escaping)


def _accepts_gzip(accept_encoding: str) -> bool:
    """Return True if gzip is accepted and not less preferred than identity."""
    q = {choice.name: choice.q for choice in _choices(accept_encoding)}
    gzip = q.get("gzip", q.get("*", 0.0))
    return gzip > 0 and gzip >= q.get("identity", 0.0)


def _choices(header: str) -> Iterator[_Choice]:
    """Yield the alternatives of a header, without those whose q is not a number from 0 to 1."""
    for part in header.lower().split(","):
        name, *rest = part.split(";")
        pairs = (parameter.partition("=") for parameter in rest)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        try:
            q = float(parameters.get("q", 1))
        except ValueError:
            continue
        if 0 <= q <= 1:
            yield _Choice(name.strip(), q, parameters)

"""Static files of the page, which hold no data."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from ..exchange import drop_exchange
from ..web.etag import parse_tags, quoted
from ..web.problems import ProblemError, problem_response
from ..web.route import OwnRoute

PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_REFERENCE = re.compile(rb'\b(href|src)="([\w-]+\.(?:css|js|svg))"')
_METHODS = ("GET", "HEAD")
_FEATURES = (
    "accelerometer",
    "autoplay",
    "camera",
    "display-capture",
    "encrypted-media",
    "fullscreen",
    "geolocation",
    "gyroscope",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-get",
    "screen-wake-lock",
    "usb",
    "xr-spatial-tracking",
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": ", ".join(f"{feature}=()" for feature in _FEATURES),
}


class StaticFile(NamedTuple):
    """A file as it is sent.

    Attributes:
        name: Name of the file.
        content: The bytes.
        media_type: Media type.
        tag: Hash of the content, which is the entity tag.
    """

    name: str
    content: bytes
    media_type: str
    tag: str


def load_files() -> dict[str, StaticFile]:
    """Return the files by name; references of the page have the hash of the file in the query.

    So a browser may keep a file forever, and has the new one after an upgrade.
    """
    folder = files(__package__).joinpath("static")
    contents = {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.is_file() and _suffix(entry.name) in _TYPES
    }
    tags = {name: _hash(content) for name, content in contents.items()}

    def reference(match: re.Match[bytes]) -> bytes:
        name = match[2].decode()
        return b'%b="%b?v=%b"' % (match[1], match[2], tags.get(name, "").encode())

    page = _REFERENCE.sub(reference, contents[PAGE])
    contents[PAGE], tags[PAGE] = page, _hash(page)
    return {
        name: StaticFile(name, content, _TYPES[_suffix(name)], tags[name])
        for name, content in contents.items()
    }


def static_routes(prefix: str) -> list[BaseRoute]:
    """Return the routes of the page and its files, which need no token."""
    loaded = load_files()
    page = loaded.pop(PAGE)
    return [
        OwnRoute(prefix, _redirect, name="dashboard_redirect", methods=_METHODS),
        OwnRoute(f"{prefix}/", _endpoint(page), name="dashboard", methods=_METHODS),
        *(
            OwnRoute(f"{prefix}/{name}", _endpoint(file), name=f"dashboard_{name}")
            for name, file in sorted(loaded.items())
        ),
    ]


def _endpoint(file: StaticFile) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        drop_exchange(request.scope)
        try:
            return _respond(request, file)
        except ProblemError as problem:
            return problem_response(problem)

    return respond


def _respond(request: Request, file: StaticFile) -> Response:
    headers = {**HEADERS, "etag": quoted(file.tag), "cache-control": _lifetime(request, file)}
    if matches(request, file.tag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


def _lifetime(request: Request, file: StaticFile) -> str:
    """Return for how long a browser may keep the file: forever with its hash in the query."""
    if file.name != PAGE and request.query_params.get("v") == file.tag:
        return "public, max-age=31536000, immutable"
    return "no-cache"


def matches(request: Request, tag: str) -> bool:
    """Return True if `If-None-Match` has the tag, so that the response is 304.

    Raises:
        ProblemError: The header is malformed.
    """
    header = ",".join(request.headers.getlist("if-none-match"))
    if not header:
        return False
    try:
        return parse_tags(header).match_weakly(tag)
    except ValueError as error:
        raise ProblemError(400, f"Invalid If-None-Match: {error}.") from None


async def _redirect(request: Request) -> Response:
    """Redirect to the page; relative, so that it also holds behind a proxy that adds a path."""
    drop_exchange(request.scope)
    name = request.scope["path"].rpartition("/")[2]
    return RedirectResponse(f"{name}/", 308, headers=dict(HEADERS))


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]

"""The page and its files."""

from __future__ import annotations

import re

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tokenpulse_mw.dashboard.files import PAGE, load_files, static_routes

CLIENT = TestClient(Starlette(routes=static_routes("/admin")))
NAMES = sorted(load_files().keys() - {PAGE})


def test_page_has_all_security_headers() -> None:
    """Nothing is loaded from elsewhere, and the page is not framed."""
    headers = CLIENT.get("/admin/").headers

    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", NAMES)
def test_file_is_immutable_with_its_hash_only(name: str) -> None:
    """With another hash or none, a browser asks again."""
    tag = load_files()[name].tag

    file = CLIENT.get(f"/admin/{name}?v={tag}")
    assert (file.status_code, file.content) == (200, load_files()[name].content)
    assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert CLIENT.get(f"/admin/{name}?v=old").headers["cache-control"] == "no-cache"
    assert CLIENT.get(f"/admin/{name}").headers["cache-control"] == "no-cache"


def test_page_refers_to_the_files_by_their_hash() -> None:
    """After an upgrade, browsers load the new files."""
    page = CLIENT.get("/admin/").text
    references = re.findall(r'(?:href|src)="([\w-]+\.(?:css|js|svg))\?v=(\w+)"', page)

    assert {"live.css", "live.js"} <= {name for name, _ in references} <= set(NAMES)
    for name, tag in references:
        assert CLIENT.get(f"/admin/{name}?v={tag}").headers["etag"] == f'"{tag}"'


@pytest.mark.parametrize("path", ["/admin/", "/admin/live.js"])
def test_known_file_is_304(path: str) -> None:
    """The entity tag is a hash of the content."""
    tag = CLIENT.get(path).headers["etag"]

    assert CLIENT.get(path, headers={"if-none-match": f"W/{tag}"}).status_code == 304
    assert CLIENT.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    assert CLIENT.get(path, headers={"if-none-match": "malformed"}).status_code == 400


def test_path_without_a_slash_redirects_below_any_root_path() -> None:
    """The location is relative."""
    client = TestClient(Starlette(routes=[Mount("/gw", routes=static_routes("/admin"))]))

    response = client.get("/gw/admin", follow_redirects=False)

    assert (response.status_code, response.headers["location"]) == (308, "admin/")
    assert client.get("/gw/admin").url.path == "/gw/admin/"

"""Simulated vendor."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tokenpulse_mw.demo.vendor import Vendor

PATHS = ["/v1/chat/completions", "/v1/messages", "/v1beta/models/gemini-demo:generateContent"]


def test_vendor_that_rejects_the_key_responds_with_401() -> None:
    """Only the key for Gemini is rejected."""
    vendor = Vendor()
    client = TestClient(vendor.app)
    vendor.rejects_gemini = True

    assert [client.post(path, json={}).status_code for path in PATHS] == [200, 200, 401]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
def test_vendor_that_is_down_responds_with_503(path: str, stream: bool) -> None:
    """The vendor responds with 200 when it is no longer down."""
    vendor = Vendor()
    client = TestClient(vendor.app)
    vendor.down = True

    response = client.post(path, json={"stream": stream})

    assert response.status_code == 503
    assert response.json()["error"]["type"] == "overloaded_error"
    vendor.down = False
    assert client.post(path, json={"stream": stream}).status_code == 200

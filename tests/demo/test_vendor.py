"""The demo's vendor."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tokenpulse_mw.demo.vendor import Vendor

PATHS = ["/v1/chat/completions", "/v1/messages", "/v1beta/models/gemini-demo:generateContent"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_vendor_that_is_down_says_so(path: str, stream: bool) -> None:
    """With 503 and an error, whatever is asked of it; then it comes back."""
    vendor = Vendor()
    client = TestClient(vendor.app)
    vendor.down = True

    answer = client.post(path, json={"stream": stream})

    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "overloaded_error"
    vendor.down = False
    assert client.post(path, json={"stream": stream}).status_code == 200

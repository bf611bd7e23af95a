"""Real answers of the vendors, each with the usage that it must be metered as."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tokenpulse_mw.usage import TokenUsage

from .bodies import cut, measure

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"


def recordings() -> list[Any]:
    """One case for each recording, or one that is skipped where there are none."""
    index = RECORDINGS / "index.json"
    if not index.is_file():
        reason = "no recordings: the folder shared/recordings beside the project is absent"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason), id="absent")]
    entries = json.loads(index.read_bytes())
    return [
        pytest.param(entry, id=entry["file"])
        for entry in entries
        if not entry["file"].endswith(".eventstream")
    ]


@pytest.mark.parametrize("cutting", ["whole", "1", "7", "random"])
@pytest.mark.parametrize("entry", recordings())
def test_a_recording_gives_its_usage(entry: dict[str, Any], cutting: str) -> None:
    """Every recorded answer costs exactly what is listed for it, however it is cut."""
    data = (RECORDINGS / entry["file"]).read_bytes()
    chance = random.Random(entry["file"])
    places: dict[str, Any] = {
        "whole": [],
        "1": range(1, len(data)),
        "7": range(7, len(data), 7),
        "random": [chance.randrange(len(data)) for _ in range(40)],
    }

    ledger = measure(entry["content_type"].encode(), cut(data, places[cutting]))

    listed = entry["usage"]
    assert ledger.usage == (None if listed is None else TokenUsage(**listed))
    assert ledger.source == ("missing" if listed is None else "reported")
    assert ledger.unreadable == 0

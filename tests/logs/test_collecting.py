"""What the page on logs gives to those who collect them fits the lines that are written."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenpulse_mw import Exchange
from tokenpulse_mw.logs import AccessLog, JsonFormatter, TextFormatter

from .records import Kept, logger_into, record_of

PAGE = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()


def blocks(language: str) -> list[str]:
    """The blocks of the page in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def yaml_with(word: str) -> Any:
    """The one YAML block of the page in which `word` occurs."""
    (block,) = [block for block in blocks("yaml") if word in block]
    return yaml.safe_load(block)


def access_record() -> Any:
    """A record of the access log, within a request."""
    kept = Kept()
    exchange = Exchange("GET", 0.0, route="/a", status=200, provider="claude", model="m")
    AccessLog(logger_into(kept))(exchange)
    (record,) = kept.records
    record.request_id = "01J8Z"
    return record


ENTRY = json.loads(JsonFormatter().format(access_record()))


def test_every_driver_is_configured_with_text() -> None:
    """Docker takes options that are strings, and nothing else."""
    for driver in ("json-file", "driver: loki", "awslogs"):
        options = yaml_with(driver)["services"]["tokenpulse"]["logging"]["options"]
        assert all(isinstance(value, str) for value in options.values()), options


@pytest.mark.parametrize(
    ("fields", "message", "request_id"),
    [
        ({"msg": "done"}, "done", None),
        ({"msg": "a [b] c: d", "request_id": "01J8Z"}, "a [b] c: d", "01J8Z"),
        ({"msg": "two\nlines"}, r"two\nlines", None),
        ({"msg": ""}, "", None),
    ],
)
def test_the_regex_for_alloy_reads_our_text(
    fields: dict[str, str], message: str, request_id: str | None
) -> None:
    """Each part of the line is found."""
    (pattern,) = re.findall(r"expression = `(.*)`", PAGE)

    found = re.match(pattern, TextFormatter(request_id=True).format(record_of("", **fields)))

    assert found is not None
    assert found.groupdict() == {
        "time": "2026-01-21T14:00:42.661Z",
        "level": "WARN",
        "module": "Migration",
        "message": message,
        "request_id": request_id,
    }


def test_alloy_takes_fields_that_there_are() -> None:
    """What becomes a label or metadata was read before, and is in our lines."""
    (pipeline,) = [block for block in blocks("alloy") if "stage.json" in block]
    (read,) = re.findall(r"expressions = \{(.*)\}", pipeline)
    names = set(re.findall(r"(\w+) =", read))
    used = re.findall(r"values = \{(.*)\}", pipeline)

    assert names <= ENTRY.keys()
    assert set(re.findall(r"(\w+) =", " ".join(used))) | {"time"} == names


def test_lokis_driver_takes_fields_that_there_are() -> None:
    """Its stages are YAML within YAML."""
    options = yaml_with("driver: loki")["services"]["tokenpulse"]["logging"]["options"]
    stages = {
        name: stage
        for each in yaml.safe_load(options["loki-pipeline-stages"])
        for name, stage in each.items()
    }

    read = stages["json"]["expressions"].keys()
    assert read <= ENTRY.keys()
    assert {*stages["labels"], *stages["structured_metadata"], stages["timestamp"]["source"]} == (
        read
    )


def test_filebeat_reads_the_time() -> None:
    """Its layout is Go's reference time, written as we write times."""
    config = yaml_with("filebeat.inputs")
    parsers = config["filebeat.inputs"][0]["parsers"]
    (parser,) = [each["ndjson"] for each in parsers if "ndjson" in each]
    (processor,) = config["processors"]

    stamp = processor["timestamp"]
    assert stamp["field"] == f"{parser['target']}.time"
    (layout,) = stamp["layouts"]
    for text in (layout, *stamp["test"], ENTRY["time"]):
        assert datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")


def test_queries_ask_for_fields_that_there_are() -> None:
    """Of Loki and of CloudWatch."""
    asked = re.findall(r"(?<=\| )(\w+) (?:=|>)", "".join(blocks("logql")))
    (insights,) = blocks("text")
    asked += re.findall(r"(?<=[ ,])(\w+)(?=,|\n|\s=)", insights.replace("@timestamp", ""))

    assert len(asked) > 8
    assert set(asked) - {"desc"} <= ENTRY.keys()


def test_fields_that_are_listed_are_those_that_are_written() -> None:
    """The table of the access log is whole."""
    section = PAGE.partition("## Access log")[2].partition("## Request ids")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    optional = {"time_to_first_byte", "input_tokens", "output_tokens", "limited"}
    annotated = {"tenant", "api_key", "credential"}
    assert listed == ENTRY.keys() - {"time", "level", "module", "message"} | optional | annotated

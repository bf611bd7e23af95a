"""Collector configurations and tables of docs/logs.md, compared with real log lines."""

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

from .records import RecordList, logger_into, record_of

PAGE = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def yaml_with(word: str) -> Any:
    """Return the only YAML block of the page that contains `word`."""
    (block,) = [block for block in blocks("yaml") if word in block]
    return yaml.safe_load(block)


def access_record() -> Any:
    """Return a record of the access log with a request id."""
    handler = RecordList()
    exchange = Exchange("GET", 0.0, route="/a", status=200, provider="claude", model="m")
    AccessLog(logger_into(handler))(exchange)
    (record,) = handler.records
    record.request_id = "01J8Z"
    return record


ENTRY = json.loads(JsonFormatter().format(access_record()))


def test_logging_driver_options_are_strings() -> None:
    """Docker accepts only strings."""
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
def test_alloy_regex_parses_text_lines(
    fields: dict[str, str], message: str, request_id: str | None
) -> None:
    """Every part of the line is captured."""
    (pattern,) = re.findall(r"expression = `(.*)`", PAGE)

    match = re.match(pattern, TextFormatter(request_id=True).format(record_of("", **fields)))

    assert match is not None
    assert match.groupdict() == {
        "time": "2026-01-21T14:00:42.661Z",
        "level": "WARN",
        "module": "Migration",
        "message": message,
        "request_id": request_id,
    }


def test_alloy_stages_use_existing_fields() -> None:
    """Labels and metadata are fields that the JSON stage has extracted from a line."""
    (pipeline,) = [block for block in blocks("alloy") if "stage.json" in block]
    (read,) = re.findall(r"expressions = \{(.*)\}", pipeline)
    names = set(re.findall(r"(\w+) =", read))
    used = re.findall(r"values = \{(.*)\}", pipeline)

    assert names <= ENTRY.keys()
    assert set(re.findall(r"(\w+) =", " ".join(used))) | {"time"} == names


def test_loki_driver_stages_use_existing_fields() -> None:
    """Labels and metadata are fields that the JSON stage has extracted from a line."""
    options = yaml_with("driver: loki")["services"]["tokenpulse"]["logging"]["options"]
    stages = {
        name: stage
        for stage_by_name in yaml.safe_load(options["loki-pipeline-stages"])
        for name, stage in stage_by_name.items()
    }

    read = stages["json"]["expressions"].keys()
    assert read <= ENTRY.keys()
    assert {*stages["labels"], *stages["structured_metadata"], stages["timestamp"]["source"]} == (
        read
    )


def test_filebeat_layout_parses_the_time() -> None:
    """The layout is Go's reference time in the format of the lines."""
    config = yaml_with("filebeat.inputs")
    parsers = config["filebeat.inputs"][0]["parsers"]
    (parser,) = [parser["ndjson"] for parser in parsers if "ndjson" in parser]
    (processor,) = config["processors"]

    timestamp = processor["timestamp"]
    assert timestamp["field"] == f"{parser['target']}.time"
    (layout,) = timestamp["layouts"]
    for text in (layout, *timestamp["test"], ENTRY["time"]):
        assert datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")


def test_queries_use_existing_fields() -> None:
    """The queries of Loki and CloudWatch use fields of the JSON lines."""
    fields = re.findall(r"(?<=\| )(\w+) (?:=|>)", "".join(blocks("logql")))
    (insights,) = blocks("text")
    fields += re.findall(r"(?<=[ ,])(\w+)(?=,|\n|\s=)", insights.replace("@timestamp", ""))

    assert len(fields) > 8
    assert set(fields) - {"desc"} <= ENTRY.keys()


def test_access_log_table_lists_every_field() -> None:
    """The table has the fields of a line, the optional ones, and no others."""
    section = PAGE.partition("## Access log")[2].partition("## Request ids")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    optional = {"time_to_first_byte", "input_tokens", "output_tokens", "limited", "fault"}
    annotated = {"tenant", "tenant_name", "api_key", "credential", "credential_group"}
    assert listed == ENTRY.keys() - {"time", "level", "module", "message"} | optional | annotated

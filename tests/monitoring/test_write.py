"""write_files: what it writes, and when it refuses to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import monitoring
from tokenpulse_mw.monitoring import write_files
from tokenpulse_mw.monitoring.write import Address, _command

from .files import DOCS, read

SCRAPED = "prometheus/prometheus.yml"


def contents(directory: Path) -> dict[str, bytes]:
    """What lies in a directory, by path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def target(directory: Path) -> str:
    """What Prometheus would scrape."""
    (job,) = read(directory / SCRAPED)["scrape_configs"]
    (config,) = job["static_configs"]
    (place,) = config["targets"]
    return str(place)


def test_it_tells_what_it_wrote(tmp_path: Path) -> None:
    """Every file, in order, and nothing else is there."""
    written = write_files(tmp_path / "new" / "folder")

    assert written == sorted(written)
    assert {path.relative_to(tmp_path / "new/folder").as_posix() for path in written} == set(
        contents(tmp_path / "new" / "folder")
    )
    assert {path.suffix for path in written} >= {".yml", ".json", ".alloy", ".crontab"}


def test_no_placeholder_is_left(written: Path) -> None:
    """All of them have become an address."""
    for name, content in contents(written).items():
        assert not re.search(rb"__[A-Z_]+__", content), name


@pytest.mark.parametrize(
    ("gateway", "scraped"),
    [
        ("localhost:3000", "host.docker.internal:3000"),
        ("LOCALHOST:3000", "host.docker.internal:3000"),
        ("127.0.0.1:8000", "host.docker.internal:8000"),
        ("0.0.0.0:8000", "host.docker.internal:8000"),
        ("[::1]:8000", "host.docker.internal:8000"),
        ("10.1.2.3:80", "10.1.2.3:80"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("gateway:3000", "gateway:3000"),
        ("llm_gw.eu-1.example.com:65535", "llm_gw.eu-1.example.com:65535"),
    ],
)
def test_prometheus_scrapes_the_gateway(tmp_path: Path, gateway: str, scraped: str) -> None:
    """From its container, where localhost is the container itself."""
    write_files(tmp_path, gateway=gateway)

    assert target(tmp_path) == scraped


@pytest.mark.parametrize(
    ("gateway", "asked"),
    [
        ("localhost:8000", "localhost:8000"),
        ("10.1.2.3:80", "10.1.2.3:80"),
        ("[::1]:8000", "[::1]:8000"),
        ("gateway:3000", "localhost:3000"),
        ("Host.docker.internal:3000", "localhost:3000"),
    ],
)
def test_cron_asks_the_gateway_from_this_machine(tmp_path: Path, gateway: str, asked: str) -> None:
    """It runs in no container, and knows none of the names that those have."""
    write_files(tmp_path, gateway=gateway)

    assert f"http://{asked})" in (tmp_path / "cron/tokenpulse.crontab").read_text()


def test_the_command_of_cron_is_written_so_that_cron_reads_it() -> None:
    """A path may have spaces, and a `%` would end the line; without a path there is a PATH."""
    assert _command("/opt/100% mine/bin/python") == (
        r"'/opt/100\% mine/bin/python' -Pm tokenpulse_mw"
    )
    assert _command("") == "env PATH=/usr/local/bin:/usr/bin:/bin tokenpulse-mw"


def test_the_page_of_the_alerts_lies_beside(written: Path) -> None:
    """Whoever is on call has it; it is that of the documentation, without links to other pages."""
    page = (DOCS / "monitoring.md").read_text()
    packed = Path(monitoring.__file__).parent / "files" / "monitoring.md"

    assert packed.read_text() == page, f"copy docs/monitoring.md to {packed}"
    told = (written / "monitoring.md").read_text()
    assert re.findall(r"\]\(([^)]*)\)", told) == re.findall(r"\]\((#[^)]*)\)", page)
    assert told.splitlines()[0] == "# Monitoring"


@pytest.mark.parametrize(
    "gateway",
    [
        "",
        "localhost",
        ":3000",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:+80",
        "localhost:\u0663",
        "http://localhost:3000",
        "localhost:3000/metrics",
        "::1:3000",
        "[nothing]:3000",
        "[fe80::1%eth0]:3000",
        'a"]:3000',
        "a\nb:3000",
        "-a:3000",
    ],
)
def test_a_malformed_address_is_refused(tmp_path: Path, gateway: str) -> None:
    """It says what an address looks like, and writes nothing."""
    with pytest.raises(ValueError, match=r"HOST:PORT, such as localhost:3000"):
        write_files(tmp_path, gateway=gateway)

    assert contents(tmp_path) == {}


@given(st.text())
def test_an_address_is_read_or_refused(text: str) -> None:
    """Nothing else happens; what is read is written the same, and cannot end a string of YAML."""
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert int(str(address).rpartition(":")[2]) == address.port
    assert not set(address.host) & set("\"'\n\\ #")


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    """It names them, and writes none of the others either."""
    (tmp_path / "prometheus").mkdir()
    (tmp_path / SCRAPED).write_text("mine")

    with pytest.raises(FileExistsError, match=SCRAPED):
        write_files(tmp_path)

    assert contents(tmp_path) == {SCRAPED: b"mine"}


def test_force_replaces_them(tmp_path: Path) -> None:
    """Ours only; nothing half-written is left beside them."""
    write_files(tmp_path, gateway="old:1")
    (tmp_path / "prometheus" / "mine.yml").write_text("mine")

    again = write_files(tmp_path, gateway="new:2", force=True)

    assert target(tmp_path) == "new:2"
    assert len(contents(tmp_path)) == len(again) + 1


def test_a_directory_that_is_none_is_an_error(tmp_path: Path) -> None:
    """As the operating system tells it."""
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        write_files(tmp_path / "file")


def test_a_file_that_cannot_be_replaced_leaves_nothing_half_written(tmp_path: Path) -> None:
    """What was written before it stays, and is whole."""
    (tmp_path / SCRAPED).mkdir(parents=True)

    with pytest.raises(OSError, match=r"prometheus\.yml"):
        write_files(tmp_path, force=True)

    assert "cron/tokenpulse.crontab" in contents(tmp_path)
    assert not [name for name in contents(tmp_path) if name.endswith(".new")]

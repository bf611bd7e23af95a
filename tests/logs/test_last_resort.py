"""Lines of this library while the application configures no logging."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from tokenpulse_mw import Settings, TokenPulse, configure_logging
from tokenpulse_mw.logs import add_last_resort, log_level, set_log_level

pytestmark = pytest.mark.usefixtures("logging_as_it_was", "library")


@pytest.fixture
def library() -> Iterator[logging.Logger]:
    """Return the logger of the library, and reset it at the end."""
    library = logging.getLogger("tokenpulse_mw")
    yield library
    library.handlers.clear()
    library.setLevel(logging.NOTSET)
    library.propagate, library.disabled = True, False


def remove_handlers() -> None:
    """Remove the handlers of pytest, which adds them after the fixtures are set up."""
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)


def test_line_without_logging_has_time_level_and_logger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """INFO lines are written too, once, however many gateways start in the process."""
    remove_handlers()
    add_last_resort()
    add_last_resort()
    logging.getLogger("tokenpulse_mw.alerts").info("resolved")
    logging.getLogger("tokenpulse_mw.alerts").debug("detail")
    logging.getLogger("app").info("not ours")

    error = capsys.readouterr().err
    assert error.endswith("Z] [INFO] [tokenpulse_mw.alerts] resolved\n")
    assert error.count("\n") == 1


def test_no_logger_of_the_application_is_changed(library: logging.Logger) -> None:
    """Only the logger of the library gets a handler and a level."""
    remove_handlers()
    add_last_resort()

    assert (logging.getLogger().handlers, logging.getLogger().level) == ([], logging.WARNING)
    assert library.propagate
    assert len(library.handlers) == 1


def test_root_handler_of_the_application_receives_all_lines(
    library: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """After `basicConfig`, nothing is added, even if its level hides INFO lines."""
    remove_handlers()
    stream = io.StringIO()
    logging.basicConfig(stream=stream, format="%(message)s")

    add_last_resort()
    library.info("resolved")
    library.warning("fired")

    assert stream.getvalue() == "fired\n"
    assert (library.handlers, library.level) == ([], logging.NOTSET)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("handlers", [logging.NullHandler()]),
        ("level", logging.ERROR),
        ("propagate", False),
        ("disabled", True),
    ],
)
def test_configured_logger_of_the_library_is_left_alone(
    library: logging.Logger, attribute: str, value: object
) -> None:
    """A handler, such as a NullHandler, a level, or a stopped propagation is kept."""
    remove_handlers()
    setattr(library, attribute, value)
    handlers, level = library.handlers[:], library.level

    add_last_resort()

    assert (library.handlers, library.level) == (handlers, level)


def test_logging_configured_later_receives_each_line_once(
    library: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """An application may configure logging in its lifespan, which runs inside ours."""
    remove_handlers()
    add_last_resort()
    stream = io.StringIO()
    logging.basicConfig(stream=stream, format="%(message)s")

    library.warning("fired")
    library.info("resolved")

    assert stream.getvalue() == "fired\n"
    assert capsys.readouterr().err == ""
    assert (library.handlers, library.level) == ([], logging.NOTSET)


def test_handler_added_later_to_the_library_receives_each_line_once(
    library: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """The handler and the level of the application stay."""
    remove_handlers()
    add_last_resort()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    library.addHandler(handler)
    library.setLevel(logging.DEBUG)

    library.debug("detail")
    library.debug("more")

    assert stream.getvalue() == "detail\nmore\n"
    assert capsys.readouterr().err == ""
    assert (library.handlers, library.level) == ([handler], logging.DEBUG)


@pytest.mark.parametrize("propagate", [True, False])
def test_line_of_a_child_logger_with_a_handler_is_written_once(
    propagate: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such an access log goes to a file of its own; all other lines are still written."""
    remove_handlers()
    add_last_resort()
    access, stream = logging.getLogger("tokenpulse_mw.access"), io.StringIO()
    handler = logging.StreamHandler(stream)
    access.addHandler(handler)
    access.propagate = propagate
    try:
        access.info("GET /")
        logging.getLogger("tokenpulse_mw.alerts").info("resolved")
    finally:
        access.removeHandler(handler)
        access.propagate = True

    error = capsys.readouterr().err
    assert stream.getvalue() == "GET /\n"
    assert error.endswith("[tokenpulse_mw.alerts] resolved\n")
    assert error.count("\n") == 1


def test_level_is_read_and_changed_like_any_other(
    library: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """`PUT /admin/settings` applies to the lines of last resort."""
    remove_handlers()
    add_last_resort()
    assert log_level() == "INFO"

    set_log_level("DEBUG")
    library.debug("detail")
    set_log_level("WARN")
    library.info("resolved")

    assert log_level() == "WARN"
    assert capsys.readouterr().err.endswith("[DEBUG] [tokenpulse_mw] detail\n")


def test_configure_logging_replaces_the_last_resort(
    library: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its format and level are used from the next line on."""
    remove_handlers()
    add_last_resort()
    stream = io.StringIO()
    configure_logging("WARN", "json", stream=stream)

    library.info("resolved")
    library.warning("fired")

    assert stream.getvalue().count("\n") == 1
    assert '"message":"fired"' in stream.getvalue()
    assert capsys.readouterr().err == ""
    assert library.handlers == []


@pytest.mark.anyio
async def test_token_pulse_adds_it_when_it_starts(
    library: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Constructing it changes nothing; the access log is written with its request ids."""
    remove_handlers()
    pulse = TokenPulse(settings=Settings(access_log=True))
    assert library.handlers == []

    async with pulse.lifespan():
        logging.getLogger("tokenpulse_mw.access").info("GET /", extra={"request_id": "01J8Z"})

    assert "[INFO] [tokenpulse_mw.access] GET / request_id=01J8Z\n" in capsys.readouterr().err


@pytest.mark.anyio
async def test_token_pulse_with_a_log_level_configures_the_process(
    library: logging.Logger,
) -> None:
    """The settings of logging leave nothing to a last resort."""
    remove_handlers()
    async with TokenPulse(settings=Settings(log_level="INFO")).lifespan():
        assert library.handlers == []

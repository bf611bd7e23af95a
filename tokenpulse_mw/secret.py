"""Values that are not shown: tokens, keys, and URLs with a password."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import Generic, NoReturn, ParamSpec, TypeVar
from urllib.parse import unquote, unquote_plus

MASK = "**********"

_Value = TypeVar("_Value")
_Arguments = ParamSpec("_Arguments")
_SECRET_OPTION = re.compile("pass|secret|token", re.IGNORECASE)


class Secret(Generic[_Value]):
    """A value that `repr`, `str`, copies and logs do not show, and that cannot be pickled.

    Args:
        value: The value.
        shown: The text to show instead.
    """

    __slots__ = ("_shown", "_value")

    def __init__(self, value: _Value, shown: str = MASK) -> None:
        self._value = value
        self._shown = shown

    def reveal(self) -> _Value:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return repr(self._shown)

    def __str__(self) -> str:
        return self._shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Secret[_Value]:
        return self

    def __deepcopy__(self, _: object) -> Secret[_Value]:
        return self

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: pass the value on with reveal()")


def hide(value: _Value | Secret[_Value]) -> Secret[_Value]:
    """Return `value` as a secret, unchanged if it is one."""
    return value if isinstance(value, Secret) else Secret(value)


def hide_url(url: str | Secret[str]) -> Secret[str]:
    """Return `url` as a secret that shows its scheme, host, port and path."""
    if isinstance(url, Secret):
        return url
    return Secret(url, masked_url(url) if isinstance(url, str) else MASK)


def hide_arguments(function: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
    """Return `function` with the tracebacks removed from the errors that it raises.

    Tools that report tracebacks with locals would show the arguments of each frame.
    """

    @wraps(function)
    def hiding(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Value:
        handled = sys.exception()  # an error that the caller handles keeps its traceback
        try:
            return function(*args, **kwargs)
        except Exception as error:
            del args, kwargs
            _drop_tracebacks(error, until=handled)
            raise

    return hiding


def _drop_tracebacks(error: BaseException | None, *, until: BaseException | None) -> None:
    """Remove the tracebacks of `error` and of its causes, up to `until`."""
    while error is not None and error is not until:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def masked_url(url: str) -> str:
    """Return `url` without its password and its options, which may be secret."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    login, location = _split(rest)
    if "?" in login:  # may be options that contain a secret
        return f"{scheme}://***"
    user, colon, _ = login.partition(":")
    shown = f"{user}:***@" if colon else "***@" if login else ""
    return f"{scheme}://{shown}{location.partition('?')[0]}"


def redact(text: str, url: Secret[str]) -> str:
    """Return `text`, such as a driver's error, without the passwords of `url`."""
    for password in _passwords(url.reveal()):
        text = text.replace(password, "***")
    return text


def has_password(url: Secret[str]) -> bool:
    """Return True if a part of `url` is a password."""
    return bool(_passwords(url.reveal()))


def _split(rest: str) -> tuple[str, str]:
    """Split the part of a URL after `://` into the user information and the rest."""
    login, at, location = rest.rpartition("@")
    return (login, location) if at and not login.startswith("/") else ("", rest)


def _passwords(url: str) -> list[str]:
    """Return each password in `url`, as written and decoded, longest first."""
    rest = url.partition("://")[2]
    user, _, password = _split(rest)[0].partition(":")
    options = [option.partition("=") for option in rest.partition("?")[2].split("&")]
    values = [value for name, _, value in options if _SECRET_OPTION.search(name)]
    written = {password or user, *values}
    decoded = {decode(value) for value in written for decode in (unquote, unquote_plus)}
    return sorted((written | decoded) - {""}, key=len, reverse=True)

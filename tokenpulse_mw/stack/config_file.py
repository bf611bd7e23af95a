"""TOML file of the settings, whose limit can change at run time."""

from __future__ import annotations

import logging
import re
import tomllib
from pathlib import Path

import anyio

from ..config import Settings
from ..ratelimit import Policy

logger = logging.getLogger("tokenpulse_mw")

_INTERVAL = 5.0  # seconds between two checks of the file
_LABEL = re.compile(r"limit \((.+)\)", re.DOTALL)  # origin of a limit in a TOML file
_KEY = re.compile(r"""\s*["']?limit["']?\s*=""")
_AT_LINE = re.compile(r"\(at line ([0-9]+)")


class ConfigFile:
    """Applies a changed `limit` of the TOML file to the limit that was made from it.

    A file with a mistake changes nothing, which is logged once.

    Args:
        settings: Settings, whose `limit` may be from a file.
        policy: Limit of each client.
    """

    def __init__(self, settings: Settings, policy: Policy) -> None:
        match = _LABEL.fullmatch(settings.origins.get("limit", ""))
        self._path = None if match is None else Path(match[1])
        self._policy = policy
        self._limit = settings.limit
        self._seen = self._stamp()

    async def watch(self) -> None:
        """Check the file every 5 seconds, until cancelled; return if the limit is not in one."""
        while self._path is not None:
            await anyio.sleep(_INTERVAL)
            self.refresh()

    def refresh(self) -> None:
        """Apply the limit in the file if the file has changed."""
        stamp = self._stamp()
        if self._path is None or stamp is None or stamp == self._seen:
            return  # a file that is replaced may be missing for a moment
        self._seen, line = stamp, "unknown"
        try:
            text = self._path.read_text("utf-8")
            line = _line_of_limit(text)
            limit = tomllib.loads(text)["limit"]
            if limit == self._limit:
                return
            applies = self._policy.reconfigure(limit, by=str(self._path))
        except tomllib.TOMLDecodeError as error:
            match = _AT_LINE.search(str(error))
            self._reject("last" if match is None else match[1], str(error))
        except KeyError:
            self._reject(line, "limit is missing: turning the limit off needs a restart")
        except (OSError, ValueError, RecursionError) as error:
            self._reject(line, str(error))
        else:
            text = "limit changed: policy=%s to=%s file=%s"
            if not applies:
                text = f"{text} (after that of the admin API is undone)"
            logger.warning(text, self._policy.name, limit, self._path)
            self._limit = limit

    def _reject(self, line: str, error: str) -> None:
        logger.error(
            "config file has a mistake, limits stay as they are: file=%s line=%s error=%s",
            self._path,
            line,
            error,
        )

    def _stamp(self) -> tuple[int, int, int] | None:
        """Return a value that differs after a change; None without a readable file."""
        try:
            stat = None if self._path is None else self._path.stat()
        except OSError:
            return None
        return None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _line_of_limit(text: str) -> str:
    lines = (number for number, line in enumerate(text.splitlines(), 1) if _KEY.match(line))
    return str(next(lines, "unknown"))

"""Detection of the other workers of one server, from `/proc` of Linux."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

logger = logging.getLogger("tokenpulse_mw")

_PROC = Path("/proc")
_START_SECONDS = 5.0  # until all workers have started

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_LISTEN = "0A"  # state in tcp and tcp6
_ACCEPTS = 0x10000  # flag in unix


async def warn_of_workers(effects: Iterable[str]) -> None:
    """Log a warning if this is the first of several workers.

    Args:
        effects: What follows from state that they do not share; `{workers}` is their number.
    """
    await anyio.sleep(_START_SECONDS)
    pid = os.getpid()
    workers = await anyio.to_thread.run_sync(workers_of_server, _PROC, pid)
    logger.debug("workers of this server: workers=%d", len(workers) or 1)
    if len(workers) > 1 and workers[0] == pid:  # once, and not in each of them
        logger.warning(
            "workers do not share their state: workers=%d; %s; to share it, set "
            "TOKENPULSE_SHARED_DIR to a folder, such as /run/tokenpulse",
            len(workers),
            "; ".join(effects).format(workers=len(workers)),
        )


def workers_of_server(proc: Path, pid: int) -> list[int]:
    """Return the ids of the workers that listen on the same address, in ascending order.

    They are the process and its siblings with the same listening socket, or with one of their own
    on the same address. The list is empty if there are no such siblings, or if that cannot be read.

    Args:
        proc: Root of the files, such as `/proc`.
        pid: Process id of this worker.
    """
    addresses = _listening(proc, pid)
    ours = {addresses[inode] for inode in _sockets(proc, pid) & addresses.keys()}
    siblings = [
        sibling
        for sibling in (_siblings(proc, pid) if ours else ())
        if any(addresses.get(inode) in ours for inode in _sockets(proc, sibling))
    ]
    return sorted([pid, *siblings]) if siblings else []


def _siblings(proc: Path, pid: int) -> Iterator[int]:
    parent = _parent(proc, pid)
    for path in proc.iterdir() if parent is not None else ():
        if path.name.isdecimal() and int(path.name) != pid:
            sibling = int(path.name)
            if _parent(proc, sibling) == parent:
                yield sibling


def _parent(proc: Path, pid: int) -> str | None:
    with suppress(OSError):
        # The name of the program, in parentheses, may contain spaces and parentheses.
        fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[1] if len(fields) > 1 else None
    return None


def _sockets(proc: Path, pid: int) -> set[str]:
    """Return the inodes of the sockets of a process; none if they cannot be read."""
    inodes = set[str]()
    with suppress(OSError):
        for path in (proc / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if match := _SOCKET.fullmatch(str(path.readlink())):
                    inodes.add(match[1])
    return inodes


def _listening(proc: Path, pid: int) -> dict[str, str]:
    """Return the addresses of all listening sockets of the network of a process, by their inode."""
    addresses = dict[str, str]()
    for name in ("tcp", "tcp6", "unix"):
        with suppress(OSError), (proc / str(pid) / "net" / name).open(errors="replace") as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                if name == "unix":
                    if len(fields) > 6 and int(fields[3], 16) & _ACCEPTS:
                        addresses[fields[6]] = fields[6]  # a path can be bound again
                elif len(fields) > 9 and fields[3] == _LISTEN:
                    addresses[fields[9]] = fields[1]
    return addresses

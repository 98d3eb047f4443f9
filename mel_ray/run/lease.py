"""Two drivers must not write into one run folder: one holds a lock on a file there, which ends with its process."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mel_ray.run.folder import RunFolderError

LOOK = 1.0  # seconds between two tries
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def only_driver(lock: Path, seconds: float, tell: Callable[[str], None]) -> Iterator[bool]:
    """Be the only driver of a run, the one who holds this file; waits as long for another one to end, and says so.
    Yields whether there was one.

    Raises:
        RunFolderError: it does not end, or the folder cannot be written.
    """
    try:
        opened = lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{lock.parent} cannot be written: {error.strerror}") from error
    with opened as file:
        until, has_told = time.monotonic() + seconds, False
        while not _is_locked(file, tell):
            other = _writer(file)
            if time.monotonic() >= until:
                raise RunFolderError(f"{other} is still writing into {lock.parent} after {seconds:g} s")
            if not has_told:
                tell(f"{other} is writing into {lock.parent}; waiting until it ends, at most {seconds:g} s")
                has_told = True
            time.sleep(LOOK)
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        file.flush()
        yield has_told


def _is_locked(file: IO[str], tell: Callable[[str], None]) -> bool:
    """Whether nobody else has the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        tell(f"{file.name} cannot be locked ({error.strerror}): let no other driver write into this folder")
    return True


def _writer(file: IO[str]) -> str:
    try:
        file.seek(0)
        found = json.loads(file.read())
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

"""What other processes have open, from /proc."""

import os
from pathlib import Path


def open_files(process: int) -> list[str]:
    """What a process has open; nothing if it is gone or not ours."""
    try:
        return [os.readlink(descriptor) for descriptor in Path(f"/proc/{process}/fd").iterdir()]
    except OSError:
        return []


def processes_using(path: Path) -> list[int]:
    """Processes that have `path` or a file below it open: an actor holds its log."""
    everyone = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [process for process in everyone if any(Path(file).is_relative_to(path) for file in open_files(process))]


def sockets(process: int) -> int:
    return sum(file.startswith("socket:") for file in open_files(process))


def threads(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))

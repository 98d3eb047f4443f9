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


def orphans() -> set[int]:
    """Actors, judging processes and parts of Ray whose parent is gone."""
    words = (b"ray::", b"raylet/raylet", b"gcs_server", b"mel_ray.rewards.child")
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == 1 and any(word in (folder / "cmdline").read_bytes() for word in words):
                found.add(int(folder.name))
        except OSError:
            continue  # it has just ended
    return found


def sockets(process: int) -> int:
    return sum(file.startswith("socket:") for file in open_files(process))


def threads(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))

"""What confines a child process that judges: limits on memory, CPU time and files, and a ban on side effects."""

import ctypes
import os
import resource
import signal
import sys
from typing import Any, TextIO

MEMORY_BYTES = 4 << 30
CPU_SECONDS = 24 * 3600
FILE_BYTES = 64 << 20
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect",
              "socket.bind", "socket.getaddrinfo", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link",
              "os.symlink", "shutil.")  # fmt: skip


def replies_of_child() -> TextIO:
    """A channel of its own for replies: whatever is printed otherwise goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def removed_folder() -> str:
    """Remove the child's temporary folder: nothing may be left there, and nobody cleans up after one that is killed."""
    folder = os.getcwd()
    os.rmdir(folder)
    return folder


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent dies: it could not kill us any more."""
    parent = os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid_side_effects(folder: str) -> None:
    """Refuse, for good, to start programs, use the network, or change files outside `folder`."""

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"the verifier does not allow {event}")
        if event == "open":
            path, mode, flags = (*arguments, None, None, None)[:3]
            writes = any(c in str(mode or "") for c in "wax+") or bool(
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if writes and not os.path.abspath(os.fsdecode(path) if path else "").startswith(folder + os.sep):
                raise PermissionError("the verifier does not allow writing there")

    sys.addaudithook(guard)

"""The verifier's child process: a JSON request a line on stdin, a JSON list of verdicts a line on stdout.

It judges hostile text, so it limits its own memory, CPU time and files, refuses to start programs, connect anywhere
or write outside its temporary folder (for the built-in rules), and its parent kills it at a deadline. Nothing of the
text is ever evaluated as code.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from mel_ray.records.question import Truth
from mel_ray.rewards.functions import Response, RewardFunction, call_function, load_function
from mel_ray.rewards.judge import judge_answer
from mel_ray.rewards.math_answer import equivalent

MEMORY_BYTES = 4 << 30
CPU_SECONDS = 24 * 3600
FILE_BYTES = 64 << 20
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect",
              "socket.bind", "socket.getaddrinfo", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link",
              "os.symlink", "shutil.")  # fmt: skip


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


def judge_custom(function: RewardFunction, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Verdicts of a custom reward function for the responses to one question."""
    question, answer = request["question"], request["truth"]["answer"]
    responses = [Response(question, text, answer, request["columns"]) for text in request["responses"]]
    try:
        judgements = call_function(function, responses)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        return [{"outcome": "error", "extracted": None, "reason": reason} for _ in responses]
    return [
        {
            "outcome": "correct" if one.is_correct else "wrong",
            "extracted": one.extracted[:200] if one.extracted else None,
            "reason": one.reason[:200],
            "score": one.score,
        }
        for one in judgements
    ]


def main() -> None:
    die_with_parent()
    # Replies get a channel of their own: whatever a reward function prints goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    function = load_function(settings["function"]) if settings["function"] else None
    if function is None:
        equivalent("\\frac{1}{2}", "x", fast=False)  # import and warm up what a later deadline must not pay for
    limit_resources()
    folder = os.getcwd()
    os.rmdir(folder)  # nothing may be left there, and nobody is left to clean up when we are killed
    if function is None:
        forbid_side_effects(folder)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if function is not None:
            verdicts = judge_custom(function, request)
        else:
            truth = Truth(**request["truth"])
            verdicts = [judge_answer(response, truth, settings["rules"]) for response in request["responses"]]
        print(json.dumps(verdicts), file=replies, flush=True)


if __name__ == "__main__":
    main()

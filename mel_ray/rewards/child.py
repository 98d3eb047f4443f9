"""The verifier's child process: one JSON request a line on stdin, one JSON verdict a line on stdout.

It judges hostile text, so it limits its own memory, CPU time, file sizes and processes, and its parent kills
it at a deadline. Nothing of the text is ever evaluated as code.
"""

import ctypes
import json
import os
import resource
import signal
import sys

MEMORY_BYTES = 2 << 30
CPU_SECONDS = 3600


def limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent dies: it could not kill us any more."""
    parent = os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def judge(response: str, answer: str) -> dict[str, str | None]:
    """Outcome, extracted answer and reason for one response."""
    from mel_ray.rewards.extract import last_boxed
    from mel_ray.rewards.math_answer import equivalent

    extracted = last_boxed(response)
    if extracted is None or not extracted:
        return {"outcome": "no_answer", "extracted": None, "reason": "no complete \\boxed{} with content"}
    try:
        is_correct = equivalent(extracted, answer)
    except RecursionError:
        return {"outcome": "error", "extracted": extracted[:200], "reason": "nested too deeply"}
    except MemoryError:
        return {"outcome": "error", "extracted": extracted[:200], "reason": "memory limit"}
    except Exception as error:  # anything sympy raises on hostile input is a verdict, not a crash
        return {"outcome": "error", "extracted": extracted[:200], "reason": f"{type(error).__name__}: {error}"[:200]}
    return {
        "outcome": "correct" if is_correct else "wrong",
        "extracted": extracted[:200],
        "reason": "equal to the ground truth" if is_correct else "differs from the ground truth",
    }


def main() -> None:
    die_with_parent()
    judge("\\boxed{\\frac{1}{2}}", "0.5")  # import and warm up what a later deadline must not pay for
    limit_resources()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(judge(request["response"], request["answer"])), flush=True)


if __name__ == "__main__":
    main()

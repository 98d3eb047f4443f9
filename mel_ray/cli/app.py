"""What every command shares: signals, the first cause of a failure, and exit codes."""

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence

from mel_ray.records.problems import ConfigError

DONE, FAILED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130


class Ended(Exception):
    """A command ended early, with an exit code and a sentence."""

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


def first_cause(error: BaseException) -> BaseException:
    """What went wrong first, inside the groups that tasks put around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run a command and turn how it ended into an exit code and at most one sentence per problem on stderr."""
    # A shell that starts us in the background has SIGINT ignored; whoever sends it all the same wants us to stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command(arguments)
    except Ended as ended:
        print(f"mel_ray {ended}", file=sys.stderr, flush=True)
        return ended.code
    except ConfigError as error:
        print("\n".join(map(str, error.problems)), file=sys.stderr)
        return BAD_REQUEST
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except BaseException as error:
        cause = first_cause(error)
        if isinstance(cause, ConfigError):
            print("\n".join(map(str, cause.problems)), file=sys.stderr)
            return BAD_REQUEST
        if isinstance(cause, SystemExit):
            raise cause from None
        print(f"mel_ray stopped: {cause or type(cause).__name__}", file=sys.stderr)
        return FAILED
    return DONE

"""What every command shares: signals, the first cause of a failure, exit codes, and options that end in a sentence."""

import argparse
import asyncio
import os
import secrets
import select
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from mel_ray.records.problem import ConfigError
from mel_ray.run.scrub import scrub

DONE, FAILED, BAD_REQUEST, STOPPED, INTERRUPTED = 0, 1, 2, 75, 130
EXIT_CODES = (
    "Exit codes: 0 done, 2 a problem in what was asked, 75 saved and stopped, 130 interrupted, 1 anything else."
)
STOP_SIGNALS = signal.SIGTERM, signal.SIGUSR1
IGNORE_AGAIN = 0.01  # seconds

Command = Callable[[Sequence[str]], None]
T = TypeVar("T")


class Ended(Exception):
    """A command ended early, with an exit code and what is printed to stderr, if anything."""

    def __init__(self, code: int, sentence: str = "") -> None:
        self.code = code
        super().__init__(sentence)


class Options(argparse.ArgumentParser):
    """The options of a command; a mistake in them ends it with one sentence instead of a page of usage."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"mel {command}", description=description, epilog=EXIT_CODES)

    def exit(self, status: int = DONE, message: str | None = None) -> NoReturn:
        raise Ended(status, message or "")

    def error(self, message: str) -> NoReturn:
        raise Ended(BAD_REQUEST, f"{self.prog}: {message}. `{self.prog} --help` lists the options.")


def asks_for_help(arguments: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in arguments)


def first_cause(error: BaseException) -> BaseException:
    """What went wrong first, inside the groups that tasks put around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def failed(error: BaseException, what: str, log: Path) -> Ended:
    """The end of a command that failed: `what` and the first cause as a sentence; the traceback goes to `log`.

    Raises:
        ConfigError: that is the cause; it speaks for itself.
    """
    cause = first_cause(error)
    if isinstance(cause, ConfigError):
        raise cause from None
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(scrub("".join(traceback.format_exception(error))))
    except OSError:
        return Ended(FAILED, scrub(f"mel_ray {what}: {_words(cause)}"))
    return Ended(FAILED, scrub(f"mel_ray {what}: {_words(cause)}\n  details: {log}"))


def heed_signals() -> None:
    """Let SIGINT interrupt, and the signals of schedulers do what SIGINT does.

    To be called again after Ray has connected, because Ray takes SIGTERM for itself.
    """
    # Shells start background jobs with SIGINT ignored; `kill -INT` is to stop them all the same.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)


def ignore_stop_signals(*_: object) -> None:
    """For what comes last, is short, and should not be cut off."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def leaving_ray() -> Iterator[Callable[[], None]]:
    """Ray gives SIGTERM its default meaning back while it shuts down, which is to end the process at once. From the
    call of what this yields, the signals of schedulers are ignored nevertheless, but for some milliseconds."""

    def leave() -> None:
        ignore_stop_signals()
        signal.signal(signal.SIGALRM, ignore_stop_signals)
        signal.setitimer(signal.ITIMER_REAL, IGNORE_AGAIN, IGNORE_AGAIN)

    try:
        yield leave
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


_asked_to_stop = list[int]()


def _stop(number: int, frame: object) -> None:
    _asked_to_stop.append(number)
    signal.raise_signal(signal.SIGINT)


def was_asked_to_stop() -> bool:
    """Whether it was a scheduler's signal that interrupted this command."""
    return bool(_asked_to_stop)


async def unless_lost(work: Awaitable[T], watching: Awaitable[NoReturn]) -> T:
    """Do the work, for as long as the watching raises nothing."""
    tasks = working, watcher = asyncio.ensure_future(work), asyncio.ensure_future(watching)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await (working if working.done() else watcher)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def guard_own_ray() -> None:
    """A Ray that a command starts for itself listens on all interfaces, so it answers only those who know a token made
    for it. Ray reads this when it is imported."""
    if "ray" not in sys.modules and not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys():
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def run_command(command: Command, arguments: Sequence[str]) -> int:
    """Run a command and turn how it ended into an exit code, and what has to be said into sentences on stderr.

    Failures that the project foresees say it in a sentence; any other is a bug, and comes with its traceback.
    """
    heed_signals()
    guard_own_ray()
    try:
        command(arguments)
        sys.stdout.flush()
    except BaseException as error:
        match first_cause(error):
            case Ended() as ended:
                _say(str(ended))
                return ended.code
            case ConfigError() as refused:
                _say("\n".join(map(str, refused.problems)))
                return BAD_REQUEST
            case KeyboardInterrupt() | asyncio.CancelledError():
                return INTERRUPTED
            case SystemExit() as left:
                raise left from None
            case BrokenPipeError() if _reader_has_left():
                return DONE
            case cause:
                if not type(cause).__module__.startswith("mel_ray."):
                    traceback.print_exception(error)
                _say(f"mel_ray stopped: {_words(cause)}")
                return FAILED
    return DONE


def _reader_has_left() -> bool:
    """Whether nobody reads stdout any more, as after `mel experiences runs/mine | head`; if so, the rest is dropped."""
    output = select.poll()
    output.register(sys.stdout)
    has_left = any(event & select.POLLERR for _, event in output.poll(0))
    if has_left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it exits
    return has_left


def _words(cause: BaseException) -> str:
    return str(cause) or type(cause).__name__


def _say(text: str) -> None:
    if text:
        print(scrub(text), file=sys.stderr, flush=True)

"""The command `mel` and its wrapper: help, wrong words, exit codes, signals, and how little it imports to help."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from mel_ray.cli import mel
from mel_ray.cli.app import BAD_REQUEST, DONE, EXIT_CODES, FAILED, INTERRUPTED, Ended, Options, failed, run_command
from mel_ray.cli.mel import COMMANDS, find_command, main
from mel_ray.records.problem import ConfigError, Problem

REFUSED = ConfigError([Problem("run.steps", 0, "too few", "raise it"), Problem("run.nmae", None, "there is no such")])
THIN = {
    "mel_ray.main": "train",
    "mel_ray.evaluate": "evaluate",
    "mel_ray.report": "report",
    "mel_ray.experiences": "experiences",
    "mel_ray.rewards.score": "score",
    "mel_ray.data.inspect": "inspect",
}


@pytest.fixture(autouse=True)
def signals_of_pytest():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def raising(error: BaseException):
    def command(arguments):
        raise error

    return command


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"], ["help", "--help"]])
def test_mel_says_what_there_is(words, capsys):
    assert main(words) == DONE
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in COMMANDS)
    assert EXIT_CODES in told
    assert max(map(len, told.splitlines())) <= 110


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert callable(find_command(name))
    for words in ([name, "--help"], [name, "-h"], ["help", name]):
        assert main(words) == DONE
        told = capsys.readouterr().out
        assert told.startswith(f"usage: mel {name} ")
        assert EXIT_CODES in " ".join(told.split())
        assert max(map(len, told.splitlines())) <= 110


def test_the_examples_of_the_help_are_commands_that_compose():
    from mel_ray.config.load import compose_config

    shown = [line.split("   ")[0].split() for line in mel.help_text().splitlines() if line.startswith("  mel ")]
    assert len(shown) >= 3
    for _, name, *overrides in shown:
        assert name in COMMANDS
        compose_config(overrides)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "there is no command 'trian'. Did you mean `mel train`?"),
        (["help", "reprot"], "there is no command 'reprot'. Did you mean `mel report`?"),
        (["run.steps=3"], "there is no command 'run.steps=3'. Did you mean `mel train run.steps=3`?"),
        (["xyz"], "there is no command 'xyz'. `mel --help` lists the commands."),
        (["report"], "mel report: the following arguments are required: RUN."),
        (["experiences", "x", "--limit", "many"], "mel experiences: argument --limit: invalid int value: 'many'."),
        (["keys", "a", "b"], "mel keys: unrecognized arguments: b."),
        (["report", "/no/such/run"], "/no/such/run: not a run folder with at least one step (no metrics.jsonl)"),
        (["experiences", "/no/such/run"], "/no/such/run is not a run folder: it has no experiences/"),
        (["score", "--input", "x", "--output", "y", "--extract", "b"], "--extract: there is no rule 'b'; there are: "),
        (["check", "run.nmae=x"], "run.nmae: there is no such key. Did you mean 'run.name'?"),
        (["evaluate", "model=tiny", "benchmarks=[]"], "benchmarks: nothing to evaluate on."),
        (["inspect", "data.train.knid=x"], "data.train.knid: there is no such key. Did you mean 'data.train.kind'?"),
    ],
)
def test_wrong_words_end_in_one_sentence(words, sentence, capsys):
    assert main(words) == BAD_REQUEST
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert len(printed.err.splitlines()) == 1


def test_keys_prints_what_is_asked(capsys):
    assert main(["keys", "group_size"]) == DONE
    assert "rollout.group_size" in capsys.readouterr().out


def test_check_is_an_option_of_train(capsys):
    printed = []
    for words in (["check"], ["train", "--check"]):
        assert main(words) == DONE
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "no problems found" in printed[0]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (REFUSED, BAD_REQUEST, "run.steps=0: too few. Raise it.\nrun.nmae: there is no such.\n"),
        (Ended(7, "as asked"), 7, "as asked\n"),
        (Ended(DONE), DONE, ""),
        (KeyboardInterrupt(), INTERRUPTED, ""),
        (asyncio.CancelledError(), INTERRUPTED, ""),
    ],
)
def test_how_a_command_ends_is_its_exit_code(error, code, told, capsys):
    for raised in (error, BaseExceptionGroup("tasks", [BaseExceptionGroup("more", [error]), ValueError("later")])):
        assert run_command(raising(raised), []) == code
        assert capsys.readouterr() == ("", told)


def test_a_failure_that_was_foreseen_is_a_sentence_and_a_bug_shows_where_it_is(capsys):
    class Foreseen(Exception):
        __module__ = "mel_ray.somewhere"

    assert run_command(raising(ExceptionGroup("tasks", [Foreseen("it died"), ValueError("later")])), []) == FAILED
    assert capsys.readouterr().err == "mel_ray stopped: it died\n"
    assert run_command(raising(ExceptionGroup("tasks", [AssertionError()])), []) == FAILED
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("mel_ray stopped: AssertionError\n")


def test_a_failed_run_names_the_log_that_has_the_traceback(tmp_path):
    log = tmp_path / "logs" / "driver.log"
    ended = failed(ExceptionGroup("tasks", [ValueError("no room")]), "stopped after step 3", log)
    assert (ended.code, str(ended)) == (FAILED, f"mel_ray stopped after step 3: no room\n  details: {log}")
    assert "ValueError: no room" in log.read_text()
    with pytest.raises(ConfigError):
        failed(ExceptionGroup("tasks", [REFUSED]), "stopped", log)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_failure(unbuffered):
    code = "import sys; from mel_ray.cli.mel import main; sys.exit(main(['keys']))"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == DONE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_ignored", [False, True])
def test_both_signals_interrupt_a_command(number, is_ignored):
    if is_ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert run_command(lambda _: os.kill(os.getpid(), number), []) == INTERRUPTED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_let_a_command_clean_up_what_it_awaits(number):
    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    assert run_command(lambda _: asyncio.run(work()), []) == INTERRUPTED
    assert cleaned == [number]


def test_options_give_what_was_asked():
    parser = Options("report", "Draw.")
    parser.add_argument("--output")
    assert parser.parse_args(["--output", "x"]).output == "x"


@pytest.mark.parametrize("module", THIN)
def test_python_m_runs_the_same_command(module):
    done = python("-m", module, "--help")
    assert done.returncode == DONE, done.stderr
    assert done.stdout.startswith(f"usage: mel {THIN[module]} ")
    assert "Exit codes" in done.stdout


def test_help_is_instant():
    """What takes time to import is not imported; nothing is timed here."""
    heavy = ("ray", "torch", "vllm", "deepspeed", "transformers", "hydra", "pydantic", "numpy", "pyarrow")
    code = (
        "import sys\nfrom mel_ray.cli.mel import main\n"
        "assert main(['--help']) == 0\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"

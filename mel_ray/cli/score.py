"""`mel score`: judge a file of responses outside any run."""

import gzip
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mel_ray.cli.app import BAD_REQUEST, Ended, Options
from mel_ray.cli.score_lines import Defaults, Line, read_lines, rules_of
from mel_ray.records.verdict import Verdict
from mel_ray.rewards.functions import load_function
from mel_ray.rewards.registry import RULES
from mel_ray.rewards.verifier import Verifier, VerifierSettings

DESCRIPTION = (
    "Judge responses. The input has one JSON object a line with `response` and `answer`, and where needed with "
    "`alternatives` (other right answers), `tolerance` (of a number), `options` (of a multiple-choice question: a "
    "list, or an object from letter to text) and `extract` (rules for this line). The output has the same lines with "
    "`verdict`, `extracted` and `reason`, and with `reward` and `parts` where a custom reward function gives them."
)


def score(arguments: Sequence[str]) -> None:
    parser = Options("score", DESCRIPTION)
    parser.add_argument("--input", type=Path, required=True, help="lines to judge; a JSON array or .gz will do, too")
    parser.add_argument("--output", type=Path, required=True, help="where to write the judged lines")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds per response (default 5)")
    parser.add_argument("--extract", default="boxed", help=f"comma-separated rules, tried in order: {', '.join(RULES)}")
    parser.add_argument("--answers", choices=("all", "any"), default="all", help="what a list of answers means")
    parser.add_argument("--function", help="a custom reward, package.module:function (docs/rewards.md)")
    parser.add_argument("--disagree", action="store_true", help="print where Math-Verify, called directly, differs")
    asked = parser.parse_args(arguments)
    if not (math.isfinite(asked.deadline) and asked.deadline > 0):
        raise Ended(BAD_REQUEST, f"--deadline: {asked.deadline:g} is not a number of seconds above 0")
    defaults = Defaults(_asked_rules(asked.extract), asked.answers, needs_answer=not asked.function)
    if asked.function:
        _refuse_what_cannot_be_loaded(asked.function)
    if asked.output.exists() and asked.input.exists() and asked.output.samefile(asked.input):
        raise Ended(BAD_REQUEST, f"--output: {asked.output} is the input; name another file")
    try:
        lines = read_lines(asked.input, defaults)
    except ValueError as error:
        raise Ended(BAD_REQUEST, str(error)) from error
    with Verifier(VerifierSettings(asked.deadline, function=asked.function)) as verifier, _written(asked.output) as out:
        _judge(lines, verifier, out, asked.disagree)


def _judge(lines: Sequence[Line], verifier: Verifier, output: TextIO, compares: bool) -> None:
    counts: Counter[str] = Counter()
    differing = 0
    for line in lines:
        (verdict,) = verifier.judge_all([line.response], line.question, rules=line.rules)
        judged = {**line.columns, **_words(verdict)}
        if compares:
            direct = verifier.judge_directly(line.response, line.question.truth)
            judged["math_verify"] = direct.outcome.value
            if _kind(verdict) != _kind(direct):
                differing += 1
                print(_difference(line, verdict, direct))
        counts[verdict.outcome.value] += 1
        output.write(json.dumps(judged, default=str) + "\n")
    print("  ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items())) or "nothing to judge")
    if compares:
        print(f"Math-Verify differs on {differing} of {len(lines)}")


def _words(verdict: Verdict) -> dict[str, Any]:
    said: dict[str, Any] = {
        "verdict": verdict.outcome.value,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
    }
    if verdict.score is not None:
        said["reward"] = verdict.score
    if verdict.parts:
        said["parts"] = dict(verdict.parts)
    return said


def _kind(verdict: Verdict) -> str:
    """What counts as a difference: no answer and a wrong one have the same reward."""
    return "correct" if verdict.is_correct else "failed" if verdict.has_failed else "incorrect"


def _difference(line: Line, verdict: Verdict, direct: Verdict) -> str:
    found = "nothing" if verdict.extracted is None else f"{verdict.extracted:.100}"
    said = {"gold": line.question.truth.answer[:100], "extracted": found}
    shown = ", ".join(f"{name} {text!r}" for name, text in said.items())
    return f"{line.place}: {shown}: {verdict.outcome.value}, Math-Verify: {direct.outcome.value}"


def _asked_rules(text: str) -> tuple[str, ...]:
    try:
        return rules_of(text)
    except ValueError as error:
        raise Ended(BAD_REQUEST, f"--extract: {error}") from error


def _refuse_what_cannot_be_loaded(function: str) -> None:
    try:
        load_function(function)
    except ValueError as error:
        raise Ended(BAD_REQUEST, f"--function: {error}") from error


@contextmanager
def _written(file: Path) -> Iterator[TextIO]:
    """A file that has its name once it is complete; what is no plain file, such as /dev/stdout, is written at once."""
    is_special = file.exists() and not file.is_file()
    partial = file if is_special else file.with_name(f".{file.name}.partial")
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(partial, "wt", encoding="utf-8") as stream:
            yield stream
        if not is_special:
            os.replace(partial, file)
    except BrokenPipeError:
        raise  # nobody reads what is printed any more
    except OSError as error:
        raise Ended(BAD_REQUEST, f"cannot write {file}: {error.strerror or error}") from error
    finally:
        if not is_special:
            partial.unlink(missing_ok=True)

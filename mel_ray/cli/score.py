"""`mel score`: judge a file of responses outside any run."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mel_ray.cli.app import BAD_REQUEST, Ended, Options
from mel_ray.records.question import Question, Truth
from mel_ray.rewards.functions import load_function
from mel_ray.rewards.registry import RULES
from mel_ray.rewards.verifier import Verifier, VerifierSettings

DESCRIPTION = (
    "Judge responses. The input has one JSON object a line with `response` and `answer`; the output has the same "
    "lines with `verdict` and `reason`, and `reward` where a custom reward function gives one."
)


def score(arguments: Sequence[str]) -> None:
    parser = Options("score", DESCRIPTION)
    parser.add_argument("--input", type=Path, required=True, help="JSON lines to judge")
    parser.add_argument("--output", type=Path, required=True, help="where to write the judged lines")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds per response (default 5)")
    parser.add_argument("--extract", default="boxed", help=f"comma-separated rules, tried in order: {', '.join(RULES)}")
    parser.add_argument("--function", help="a custom reward, package.module:function (docs/rewards.md)")
    asked = parser.parse_args(arguments)
    rules = tuple(asked.extract.split(","))
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise Ended(BAD_REQUEST, f"--extract: there is no rule '{unknown[0]}'; there are: {', '.join(RULES)}")
    if asked.function:
        try:
            load_function(asked.function)
        except ValueError as error:
            raise Ended(BAD_REQUEST, f"--function: {error}") from error
    rows = _read(asked.input)
    settings = VerifierSettings(asked.deadline, rules, asked.function)
    counts: Counter[str] = Counter()
    try:
        with Verifier(settings) as verifier, asked.output.open("w", encoding="utf-8") as output:
            for row in rows:
                judged = _judged(row, verifier)
                counts[judged["verdict"]] += 1
                output.write(json.dumps(judged) + "\n")
    except OSError as error:
        raise Ended(BAD_REQUEST, f"cannot write {asked.output}: {error}") from error
    print("  ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items())) or "nothing to judge")


def _read(file: Path) -> list[dict[str, Any]]:
    """
    Raises:
        Ended: the file cannot be read, or a line is not what it must be.
    """
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Ended(BAD_REQUEST, f"cannot read {file}: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise Ended(BAD_REQUEST, f"{file}: line {number} is not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise Ended(BAD_REQUEST, f"{file}: line {number} is not a JSON object")
        if missing := [column for column in ("response", "answer") if column not in row]:
            found = ", ".join(row) or "nothing"
            raise Ended(BAD_REQUEST, f"{file}: line {number} lacks '{missing[0]}'; it has: {found}")
        rows.append(row)
    return rows


def _judged(row: dict[str, Any], verifier: Verifier) -> dict[str, Any]:
    question = Question(str(row.get("question", "")), Truth(str(row["answer"])), columns=row)
    (verdict,) = verifier.judge_all([str(row["response"])], question)
    judged = {**row, "verdict": verdict.outcome.value, "reason": verdict.reason}
    if verdict.score is not None:
        judged["reward"] = verdict.score
    return judged

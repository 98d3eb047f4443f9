"""python -m mel_ray.cli.score --input in.jsonl --output out.jsonl: judge responses outside any run.

In: one JSON object a line with `response` and `answer`. Out: the same line plus `verdict` and `reason`, and `reward`
where a custom reward function gives one.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from mel_ray.rewards.extract import RULES
from mel_ray.rewards.functions import load_function
from mel_ray.rewards.verifier import Verifier, VerifierSettings


def _problem(number: int, line: str) -> str | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"line {number} is not JSON: {error.msg}"
    if not isinstance(row, dict):
        return f"line {number} is not a JSON object"
    for column in ("response", "answer"):
        if column not in row:
            return f"line {number} lacks '{column}'; it has: {', '.join(row) or 'nothing'}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds per response")
    parser.add_argument("--extract", default="boxed", help=f"comma-separated rules, tried in order: {', '.join(RULES)}")
    parser.add_argument("--function", help="a custom reward, package.module:function (docs/rewards.md)")
    arguments = parser.parse_args()
    rules = tuple(arguments.extract.split(","))
    if unknown := [rule for rule in rules if rule not in RULES]:
        print(f"--extract: there is no rule '{unknown[0]}'; there are: {', '.join(RULES)}", file=sys.stderr)
        return 2
    if arguments.function:
        try:
            load_function(arguments.function)
        except ValueError as error:
            print(f"--function: {error}", file=sys.stderr)
            return 2
    settings = VerifierSettings(arguments.deadline, rules, arguments.function)
    try:
        lines = [line for line in arguments.input.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        print(f"cannot read {arguments.input}: {error}", file=sys.stderr)
        return 2
    for number, line in enumerate(lines, 1):
        if problem := _problem(number, line):
            print(f"{arguments.input}: {problem}", file=sys.stderr)
            return 2
    counts: Counter[str] = Counter()
    try:
        with Verifier(settings) as verifier, arguments.output.open("w", encoding="utf-8") as output:
            for line in lines:
                row = json.loads(line)
                question = str(row.get("question", ""))
                (verdict,) = verifier.judge_all([str(row["response"])], str(row["answer"]), question)
                counts[verdict.outcome] += 1
                judged = {**row, "verdict": verdict.outcome, "reason": verdict.reason}
                if verdict.score is not None:
                    judged["reward"] = verdict.score
                output.write(json.dumps(judged) + "\n")
    except OSError as error:
        print(f"cannot write {arguments.output}: {error}", file=sys.stderr)
        return 2
    print("  ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items())) or "nothing to judge")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""python -m mel_ray.rewards.score --input in.jsonl --output out.jsonl: judge responses outside any run.

In: one JSON object a line with `response` and `answer`. Out: the same line plus `verdict` and `reason`.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from mel_ray.rewards.verifier import Verifier


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
    arguments = parser.parse_args()
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
        with Verifier(arguments.deadline) as verifier, arguments.output.open("w", encoding="utf-8") as output:
            for line in lines:
                row = json.loads(line)
                verdict = verifier.judge(str(row["response"]), str(row["answer"]))
                counts[verdict.outcome] += 1
                output.write(json.dumps({**row, "verdict": verdict.outcome, "reason": verdict.reason}) + "\n")
    except OSError as error:
        print(f"cannot write {arguments.output}: {error}", file=sys.stderr)
        return 2
    print("  ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items())) or "nothing to judge")
    return 0


if __name__ == "__main__":
    sys.exit(main())

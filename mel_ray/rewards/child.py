"""The verifier's child process: a JSON request a line on stdin, a JSON list of results a line on stdout.

It judges hostile text by the built-in rules, so it limits itself and refuses to start programs, connect anywhere or
write outside its temporary folder, and its parent kills it at a deadline. Nothing of the text is evaluated as code.
"""

import json
import re
import sys
from typing import Any

from mel_ray.records.question import Truth
from mel_ray.rewards.extract import extract_answer
from mel_ray.rewards.judge import judge_answer, judge_directly
from mel_ray.rewards.sandbox import (
    die_with_parent,
    forbid_side_effects,
    limit_resources,
    removed_folder,
    replies_of_child,
)

Request = dict[str, Any]
Results = list[dict[str, Any]]


def answer_by_rules(request: Request) -> Results:
    """What the built-in rules say of each response, by the request's `task`."""
    responses: list[str] = request["responses"]
    match request["task"]:
        case "judge":
            truth = Truth(**request["truth"])
            return [judge_answer(response, truth, request["rules"]) for response in responses]
        case "judge directly":
            truth = Truth(**request["truth"])
            return [judge_directly(response, truth) for response in responses]
        case "extract":
            return [{"value": float(bool(extract_answer(response, request["rules"])))} for response in responses]
        case "match":
            return [{"value": float(bool(re.search(request["pattern"], response)))} for response in responses]
        case task:
            raise ValueError(f"there is no task '{task}'")


def main() -> None:
    die_with_parent()
    replies = replies_of_child()
    judge_answer("\\boxed{\\sqrt{8}}", Truth("2\\sqrt{2}"), ("boxed",))  # a later deadline must not pay for imports
    limit_resources()
    forbid_side_effects(removed_folder())
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer_by_rules(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()

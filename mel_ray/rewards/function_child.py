"""The child process that runs custom functions, named on its command line (rewards/functions.py).

It speaks as rewards/child.py does. It limits itself and dies with its parent, but side effects are the functions' own.
"""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from mel_ray.rewards.functions import (
    PartFunction,
    Response,
    RewardFunction,
    call_function,
    call_part,
    flaw_of,
    load_function,
)
from mel_ray.rewards.sandbox import die_with_parent, limit_resources, removed_folder, replies_of_child

MAX_REASON = 200
Request = dict[str, Any]
Results = list[dict[str, Any]]


def _responses(request: Request) -> list[Response]:
    texts = request["responses"]
    lengths = request["tokens"] or [None] * len(texts)
    question, answer, columns = request["question"], request["truth"]["answer"], request["columns"]
    return [Response(question, text, answer, columns, length) for text, length in zip(texts, lengths, strict=True)]


def _failure(name: str, why: str) -> dict[str, Any]:
    return {"outcome": "error", "extracted": None, "reason": f"{name}: {why}"[:MAX_REASON]}


def judge_custom(name: str, function: RewardFunction, request: Request) -> Results:
    """Verdicts of a function that decides what is correct, for the responses to one question."""
    results: Results = []
    for one in call_function(function, _responses(request)):
        if flaw := flaw_of(one):
            results.append(_failure(name, flaw))
            continue
        results.append(
            {
                "outcome": "correct" if one.is_correct else "wrong",
                "extracted": None if one.extracted is None else str(one.extracted)[:200],
                "reason": str(one.reason)[:MAX_REASON],
                "score": one.score,
                "parts": one.valued_parts,
            }
        )
    return results


def score_custom(name: str, function: PartFunction, request: Request) -> Results:
    """Values of a function that is one part of the reward, for the responses to one question."""
    values = call_part(function, _responses(request))
    return [{"value": value} if math.isfinite(value) else _failure(name, f"the value is {value}") for value in values]


def answer_by_function(request: Request, functions: Mapping[str, RewardFunction]) -> Results:
    """What a custom function says of each response; if it raises, an error for each of them."""
    name = request["function"]
    try:
        answered = judge_custom if request["task"] == "judge" else score_custom
        return answered(name, functions[name], request)
    except (Exception, SystemExit) as error:
        return [_failure(name, f"{type(error).__name__}: {error}") for _ in request["responses"]]


def main() -> None:
    die_with_parent()
    replies = replies_of_child()
    functions = {name: load_function(name) for name in sys.argv[1:]}
    limit_resources()
    removed_folder()
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer_by_function(json.loads(line), functions)), file=replies, flush=True)


if __name__ == "__main__":
    main()

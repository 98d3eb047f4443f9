"""One response judged by the built-in rules: outcome, extracted answer and reason.

Runs in the verifier's child process, since comparing expressions may take as long as sympy likes.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from mel_ray.records.question import Truth
from mel_ray.rewards.dress import key, undressed
from mel_ray.rewards.extract import extract_answer
from mel_ray.rewards.limits import too_large
from mel_ray.rewards.math_answer import are_numbers, equivalent, is_list

SHOWN = 200  # characters of an answer in a verdict


def judge_answer(response: str, truth: Truth, rules: Sequence[str]) -> dict[str, Any]:
    """V(y, y*) for one response (MEL Eq. 1): correct if it equals the answer or one of the alternatives."""
    verdict = _judged(response, truth, truth.answer, rules)
    for alternative in truth.alternatives:
        if verdict["outcome"] == "correct":
            break
        other = _judged(response, truth, alternative, rules)
        verdict = other if other["outcome"] == "correct" else verdict
    return verdict


def _judged(response: str, truth: Truth, answer: str, rules: Sequence[str]) -> dict[str, Any]:
    extracted = extract_answer(response, rules, _is_list(answer))
    if not extracted:
        return _verdict("no_answer", None, "no complete answer found")
    if not are_numbers(extracted, answer):
        if key(undressed(extracted)) == key(undressed(answer)):
            return _verdict("correct", extracted, "equals the ground truth")
        if why := too_large(extracted) or too_large(undressed(extracted)):
            # It differs from any truth of ordinary size; two such expressions cannot be compared.
            return _verdict("error" if too_large(answer) else "wrong", extracted, why)
    try:
        is_correct = equivalent(extracted, answer, truth.tolerance, truth.options)
    except RecursionError:
        return _verdict("error", extracted, "nested too deeply")
    except MemoryError:
        return _verdict("error", extracted, "memory limit")
    except Exception as error:  # anything sympy raises on hostile input is a verdict, not a crash
        return _verdict("error", extracted, f"{type(error).__name__}: {error}"[:SHOWN])
    outcome, relation = ("correct", "equals") if is_correct else ("wrong", "differs from")
    return _verdict(outcome, extracted, f"{relation} the ground truth")


_is_list = lru_cache(maxsize=256)(is_list)


def _verdict(outcome: str, extracted: str | None, reason: str) -> dict[str, Any]:
    return {"outcome": outcome, "extracted": extracted[:SHOWN] if extracted else None, "reason": reason}


def judge_directly(response: str, truth: Truth) -> dict[str, Any]:
    """What Math-Verify alone says about a whole response, for comparison."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    try:
        guess = parse(response, parsing_timeout=None)
        golds = [parse(f"\\boxed{{{one}}}", parsing_timeout=None) for one in (truth.answer, *truth.alternatives)]
        is_correct = any(verify(gold, guess, timeout_seconds=None) for gold in golds)
    except Exception as error:  # as above
        return _verdict("error", None, f"{type(error).__name__}: {error}"[:SHOWN])
    if not guess:
        return _verdict("no_answer", None, "Math-Verify finds no answer")
    return _verdict("correct" if is_correct else "wrong", str(guess[-1]), "Math-Verify")

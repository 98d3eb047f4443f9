"""One response judged by the built-in rules: outcome, extracted answer and reason.

Runs in the verifier's child process, since comparing expressions may take as long as sympy likes.
"""

from collections.abc import Sequence
from typing import Any

from mel_ray.records.question import Truth
from mel_ray.rewards.extract import extract_answer
from mel_ray.rewards.math_answer import equivalent, too_large


def judge_answer(response: str, truth: Truth, rules: Sequence[str]) -> dict[str, Any]:
    """V(y, y*) for one response (MEL Eq. 1)."""
    extracted, answer = extract_answer(response, rules), truth.answer
    if not extracted:
        return {"outcome": "no_answer", "extracted": None, "reason": "no complete answer found"}
    if extracted != answer.strip() and (why := too_large(extracted)):
        # It differs from any truth of ordinary size; two such expressions cannot be compared.
        outcome = "error" if too_large(answer) else "wrong"
        return {"outcome": outcome, "extracted": extracted[:200], "reason": why}
    try:
        is_correct = equivalent(extracted, answer, truth.tolerance)
    except RecursionError:
        return {"outcome": "error", "extracted": extracted[:200], "reason": "nested too deeply"}
    except MemoryError:
        return {"outcome": "error", "extracted": extracted[:200], "reason": "memory limit"}
    except Exception as error:  # anything sympy raises on hostile input is a verdict, not a crash
        return {"outcome": "error", "extracted": extracted[:200], "reason": f"{type(error).__name__}: {error}"[:200]}
    outcome, relation = ("correct", "equals") if is_correct else ("wrong", "differs from")
    return {"outcome": outcome, "extracted": extracted[:200], "reason": f"{relation} the ground truth"}

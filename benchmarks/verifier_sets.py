r"""The real sets of `benchmarks.verifier_quality`: questions with their golds, and cases whose verdict is published.

The sets lie outside the repository (`--data`); SOURCES.md there names their publishers.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from mel_ray.records.question import Truth

OWN, VERDICT = "own gold", "published verdict"
# Rows of Minerva whose solution answers another part of its question than the `answer` column: read one by one. The
# boxes are kept as wrong answers. In one more row the two differ by their rounding (0.264 and 0.265): left out.
OTHER_PART = frozenset((
    57, 61, 68, 74, 75, 81, 87, 93, 101, 104, 110, 112, 114, 118, 126, 129, 134, 139, 145, 149, 151, 155, 162, 165, 167,
    173, 198, 201, 211, 223, 226, 227, 240, 242, 246, 247, 251, 254, 268,
))  # fmt: skip
ROUNDED = frozenset((154,))
TWO_VALUES = frozenset((17, 20, 76, 201))  # rows of Minerva whose several answers are no spellings of one value


@dataclass(frozen=True, slots=True)
class Case:
    """A response, what it is judged against, and whether it is right. Where that is not sure before a person has looked
    (two golds that may be the same value), `is_sure` is false."""

    kind: str
    response: str
    truth: Truth
    is_right: bool
    rules: tuple[str, ...] = ("boxed",)
    is_sure: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A question's gold, and a response that gives it."""

    gold: str
    response: str
    alternatives: tuple[str, ...] = ()
    unit: str = ""
    is_list: bool = False
    rules: tuple[str, ...] = ("boxed",)

    @property
    def truth(self) -> Truth:
        return Truth(self.gold, self.alternatives)


@dataclass(frozen=True, slots=True)
class RealSet:
    """A set's rows, and its cases with a verdict of their own."""

    rows: Sequence[Row]
    verdicts: Sequence[Case] = ()


def boxed(answer: str) -> str:
    """A response that says `answer`; one with a box of its own says it in that box."""
    return f"So the answer is ${answer}$." if "\\boxed" in answer else f"So the answer is $\\boxed{{{answer}}}$."


def plain(gold: Any) -> str:
    """A gold as the loader gives it: text without dollar signs that enclose a formula."""
    text = re.sub(r"(?<!\\)\$", "", str(gold)).strip()
    return text.removesuffix(".").strip()


def _short(number: float) -> str:
    """70 for 70.0."""
    return str(int(number)) if number == int(number) else str(number)


def _own(gold: Any, solution: str | None = None, **about: Any) -> Row:
    has_box = bool(solution) and "\\boxed" in solution
    return Row(plain(gold), solution if has_box and solution else boxed(plain(gold)), **about)


def _aime(folder: Path) -> RealSet:
    rows = [_own(row["answer"], row["solution"]) for row in _read(folder / "aime/deepscaler_aime.json")]
    rows += [_own(row["answer"], row["solution"]) for row in _read(folder / "aime/aimo-validation-aime.jsonl")]
    rows += [_own(row["final_answer"]) for row in _read(folder / "aime/orz_aime2024.json")]
    return RealSet(rows)


def _amc(folder: Path) -> RealSet:
    """The golds are written 142.0, the answers 142."""
    answers = [row["answer"] for row in _read(folder / "amc/deepscaler_amc.json")]
    answers += [row["answer"] for row in _read(folder / "amc/aimo-validation-amc.jsonl")]
    return RealSet([Row(str(answer), boxed(_short(answer))) for answer in answers])


def _dapo(folder: Path) -> RealSet:
    rows = _read(folder / "dapo/dapo_math_17k.parquet")
    return RealSet([_own(row["reward_model"]["ground_truth"]) for row in rows])


def _gsm8k(folder: Path) -> RealSet:
    solutions = [row["answer"] for name in ("test", "train") for row in _read(folder / f"gsm8k/{name}.jsonl")]
    rows = [Row(text.split("####")[1].strip(), text, rules=("hashes",)) for text in solutions]
    cases = []
    for row in _read(folder / "gsm8k/example_model_solutions.jsonl"):
        gold = row["ground_truth"].splitlines()[-1].removeprefix("A: ")
        for model in (value for value in row.values() if isinstance(value, dict)):
            response = re.sub(r"^A: (.*)\Z", r"#### \1", model["solution"].strip(), flags=re.MULTILINE)
            cases.append(Case(VERDICT, response, Truth(gold), model["is_correct"], ("hashes",)))
    return RealSet(rows, cases)


def _math500(folder: Path) -> RealSet:
    rows = [_own(row["answer"], row["solution"]) for row in _read(folder / "math500/simplerl_math500.jsonl")]
    return RealSet(rows + [_own(row["final_answer"]) for row in _read(folder / "math500/orz_math500.json")])


def _minerva(folder: Path) -> RealSet:
    """Each answer is written in several ways: every one is right against the others."""
    rows, cases = [], []
    for row in _read(folder / "minerva/deepscaler_minerva.json"):
        golds = list(dict.fromkeys(plain(answer) for answer in row["answer"]))
        truth = Truth(golds[0], tuple(golds[1:]))
        if row["idx"] in OTHER_PART:
            cases.append(Case(VERDICT, row["solution"], truth, False))
        elif row["idx"] not in ROUNDED:
            rows.append(_own(golds[0], row["solution"], alternatives=truth.alternatives))
        for place, gold in enumerate(golds if len(golds) > 1 and row["idx"] not in TWO_VALUES else ()):
            others = golds[:place] + golds[place + 1 :]
            cases.append(Case(VERDICT, boxed(gold), Truth(others[0], tuple(others[1:])), True))
    return RealSet(rows, cases)


def _olympiadbench(folder: Path) -> RealSet:
    rows = [
        _own(row["answer"][0], unit=plain(row["unit"] or ""), is_list=row["is_multiple_answer"])
        for row in _read(folder / "olympiadbench/deepscaler_olympiad_bench.json")
    ]
    cases = []
    for row in _read(folder / "olympiadbench/scoring_examples.json"):
        for answer in row["Ans"]:
            stated = answer.get("precision", 1e-8)
            tolerance = tuple(map(float, stated)) if isinstance(stated, list) else float(stated)
            truth = Truth(row["GT"], tolerance=tolerance)
            cases.append(Case(VERDICT, boxed(answer["answer"]), truth, answer["equal"]))
    return RealSet(rows, cases)


def _svamp(folder: Path) -> RealSet:
    """The equations are right answers too, where they are exact."""
    rows, cases = [], []
    for row in _read(folder / "svamp/SVAMP.json"):
        rows.append(Row(str(row["Answer"]), boxed(_short(row["Answer"]))))
        if match := re.fullmatch(r"\( ([\d.]+) ([-+*/]) ([\d.]+) \)", row["Equation"]):
            left, sign, right = match.groups()
            if sign != "/" or Fraction(left) == Fraction(right) * Fraction(row["Answer"]):
                cases.append(Case(VERDICT, boxed(f"{left} {sign} {right}"), Truth(str(row["Answer"])), True))
    return RealSet(rows, cases)


SETS: dict[str, Callable[[Path], RealSet]] = {
    "AIME": _aime,
    "AMC": _amc,
    "DAPO-Math-17k": _dapo,
    "GSM8K": _gsm8k,
    "MATH-500": _math500,
    "Minerva": _minerva,
    "OlympiadBench": _olympiadbench,
    "SVAMP": _svamp,
}


def own_cases(rows: Sequence[Row]) -> Iterator[Case]:
    """Each row's response against its own gold."""
    for row in rows:
        yield Case(OWN, row.response, row.truth, True, row.rules)


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line] if path.suffix == ".jsonl" else json.loads(text)

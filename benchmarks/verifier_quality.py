"""python -m benchmarks.verifier_quality: right answers missed and wrong answers credited on real sets.

Ours, and Math-Verify called directly, on the same cases under the same deadline, both in killable children. A case is a
response, a gold, and a verdict known without either of them. The goals: nothing wrong is credited by ours, and on every
line of the table ours misses at most half of what Math-Verify misses.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from random import Random

from benchmarks.figures import finish
from benchmarks.verifier_changes import against_others, changed, dressed, in_boxes, reformed
from benchmarks.verifier_sets import SETS, Case, RealSet, own_cases
from mel_ray.records.question import Question
from mel_ray.records.verdict import Outcome, Verdict
from mel_ray.rewards.verifier import Verifier, VerifierSettings

DATA = Path(__file__).parents[2] / "shared" / "data"
FAILURES = (Outcome.TIMEOUT, Outcome.ERROR)
WIDTH = 110  # characters of a case in a list


@dataclass(frozen=True, slots=True)
class Judged:
    """A case and both verdicts."""

    case: Case
    ours: Verdict
    theirs: Verdict

    @property
    def is_unclear(self) -> bool:
        """A pair of golds that may be the same value, and a verifier says it is."""
        return not self.case.is_sure and (self.ours.is_correct or self.theirs.is_correct)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one line of the table; each pair is ours and Math-Verify."""

    right: int
    missed: tuple[int, int]
    wrong: int
    credited: tuple[int, int]
    failures: tuple[int, int]

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> "Tally":
        right = [one for one in judged if one.case.is_right]
        wrong = [one for one in judged if not one.case.is_right and not one.is_unclear]
        return cls(
            len(right),
            (sum(not one.ours.is_correct for one in right), sum(not one.theirs.is_correct for one in right)),
            len(wrong),
            (sum(one.ours.is_correct for one in wrong), sum(one.theirs.is_correct for one in wrong)),
            (
                sum(one.ours.outcome in FAILURES for one in judged),
                sum(one.theirs.outcome in FAILURES for one in judged),
            ),
        )

    def line(self, name: str, kind: str) -> str:
        counts = (self.right, *self.missed, self.wrong, *self.credited, *self.failures)
        return f"{name:<15}{kind:<19}" + "".join(f"{count:>9}" for count in counts)


HEAD = f"{'':<34}{'right':>9}{'missed by':>18}{'wrong':>9}{'credited by':>18}{'failures of':>18}\n" + (
    f"{'set':<15}{'kind of case':<19}{'cases':>9}{'ours':>9}{'M-V':>9}{'cases':>9}" + f"{'ours':>9}{'M-V':>9}" * 2
)


def cases_of(found: RealSet, limit: int, rng: Random) -> Iterator[Case]:
    """At most `limit` questions of each kind and, of golds that repeat, each once."""
    rows = found.rows if len(found.rows) <= limit else rng.sample(found.rows, limit)
    distinct = list({row.gold: row for row in rows}.values())
    yield from own_cases(rows)
    yield from dressed(distinct, rng)
    yield from reformed(distinct, rng)
    yield from in_boxes(distinct, rng)
    yield from against_others(rows, rng)
    yield from changed(distinct, rng)
    yield from found.verdicts


def judge(cases: Sequence[Case], verifier: Verifier) -> list[Judged]:
    return [
        Judged(
            case,
            verifier.judge_all([case.response], Question("", case.truth), rules=case.rules)[0],
            verifier.judge_directly(case.response, case.truth),
        )
        for case in cases
    ]


def show(title: str, judged: Sequence[Judged]) -> None:
    """The cases of a list, each with what the verifiers said."""
    print(f"\n{title}: {len(judged)}")
    for one in judged:
        golds = " or ".join((one.case.truth.answer, *one.case.truth.alternatives))
        said = " ".join((one.ours.extracted or one.case.response[-WIDTH:]).split())
        print(f"  {one.case.kind}: {said[:WIDTH]!r} for {golds[:WIDTH]!r}: {one.ours.outcome}, {one.theirs.outcome}")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="where the sets are (default: %(default)s)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="only these")
    parser.add_argument("--limit", type=int, default=1000, help="questions per set, drawn with the seed")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds per response")
    parser.add_argument("--show", action="store_true", help="list what was misjudged, and what a person must look at")
    return parser.parse_args()


def main() -> int:
    arguments = _parsed()
    if not arguments.data.is_dir():
        print(
            f"there are no sets at {arguments.data}; --data names the folder that holds gsm8k, math500 and the others"
        )
        return 2
    started, results, over = time.perf_counter(), {}, []
    print(HEAD)
    with Verifier(VerifierSettings(arguments.deadline)) as verifier:
        for name in arguments.sets:
            cases = cases_of(SETS[name](arguments.data), arguments.limit, Random(arguments.seed))
            results[name] = judged = judge(list(cases), verifier)
            kinds = {kind: list(group) for kind, group in groupby(judged, lambda one: one.case.kind)}
            for kind, ones in {**kinds, "all": judged}.items():
                tally = Tally.of(ones)
                over += [f"{name} ({kind})"] if 2 * tally.missed[0] > tally.missed[1] else []
                print(tally.line(name, kind), flush=True)
    everything = list(chain.from_iterable(results.values()))
    total, unclear = Tally.of(everything), [one for one in everything if one.is_unclear]
    print(total.line("all", "all"))
    if arguments.show:
        wrong = [one for one in everything if not one.case.is_right and not one.is_unclear]
        show("wrong and credited by ours", [one for one in wrong if one.ours.is_correct])
        show("right and missed by ours", [one for one in everything if one.case.is_right and not one.ours.is_correct])
        show("wrong and credited by Math-Verify", [one for one in wrong if one.theirs.is_correct])
        show("failures of ours", [one for one in everything if one.ours.outcome in FAILURES])
        show("to look at: golds of two questions, the same value for one verifier", unclear)
    missed = {name: Tally.of(judged).missed for name, judged in results.items()}
    print(f"\nwrong answers credited: {total.credited[0]} (goal: 0)")
    print(f"lines on which more than half of Math-Verify's misses are missed: {', '.join(over) or 'none'} (goal: none)")
    print(f"pairs of golds left out of the table, to look at with --show: {len(unclear)}")
    finish(
        {
            "cases": len(everything),
            "credited": total.credited[0],
            "credited_by_math_verify": total.credited[1],
            "missed": {name: ours for name, (ours, _) in missed.items()},
            "missed_by_math_verify": {name: theirs for name, (_, theirs) in missed.items()},
            "failures": total.failures[0],
            "failures_of_math_verify": total.failures[1],
            "to_look_at": len(unclear),
            "goals_met": not total.credited[0] and not over,
            "seconds": time.perf_counter() - started,
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

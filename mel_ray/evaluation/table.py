"""The evaluation's tables for a terminal: models by benchmarks as in the paper's Table 1, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mel_ray.evaluation.scores import paired_difference, question_scores, summarise_results
from mel_ray.records.evaluation import QuestionResult


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything about one model on one benchmark."""

    model: str
    benchmark: str
    results: tuple[QuestionResult, ...]
    samples: int
    ks: tuple[int, ...]
    seconds: float
    scores: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", summarise_results(self.results, self.samples, self.ks))

    @property
    def names(self) -> list[str]:
        return [name for name in self.scores if "@" in name and not name.endswith("_se")]


def table_text(done: Sequence[Evaluation]) -> str:
    """Percentages, each with its standard error, and the average over benchmarks where there are several."""
    names = done[0].names
    models = list(dict.fromkeys(one.model for one in done))
    width = max(len(text) for one in done for text in (one.model, one.benchmark)) + 2
    lines = [f"{'model':<{width}}{'benchmark':<{width}}" + "".join(f"{name:>16}" for name in names)
             + f"{'truncated':>11}{'no answer':>11}{'tokens':>9}"]  # fmt: skip
    for model in models:
        mine = [one for one in done if one.model == model]
        for one in mine:
            cells = "".join(f"{100 * one.scores[n]:>9.2f} ±{100 * one.scores[n + '_se']:>5.2f}" for n in names)
            lines.append(
                f"{model:<{width}}{one.benchmark:<{width}}{cells}{100 * one.scores['truncated']:>10.1f}%"
                f"{100 * one.scores['no_answer']:>10.1f}%{one.scores['tokens_mean']:>9.0f}"
            )
        if len(mine) > 1:
            cells = "".join(f"{100 * sum(one.scores[n] for one in mine) / len(mine):>9.2f}       " for n in names)
            lines.append(f"{model:<{width}}{'average':<{width}}{cells}")
    return "\n".join(lines)


def comparison_text(done: Sequence[Evaluation]) -> str:
    """Every later model against the first, question by question, with 95% bootstrap intervals."""
    first = done[0].model
    base = {one.benchmark: one for one in done if one.model == first}
    lines = [f"differences to {first} in points, paired by question, with 95% bootstrap intervals:"]
    for one in done:
        other = base.get(one.benchmark)
        if one.model == first or other is None:
            continue
        for name, score in question_scores(one.samples, one.ks).items():
            before, after = [score(r) for r in other.results], [score(r) for r in one.results]
            mean, low, high = (100 * value for value in paired_difference(before, after))
            verdict = "" if low <= 0 <= high else "  *"
            lines.append(f"  {one.model}  {one.benchmark}  {name:<8}{mean:>+8.2f}  [{low:+.2f}, {high:+.2f}]{verdict}")
    return "\n".join(lines)

"""The pre-training corpus of an embedded base model: four kinds of documents, loss on completions only.

- solve: a question and a solution, which takes the right route with the family's `skill`;
- retrospective: an incorrect and a correct solution, and a meta-experience about them;
- replay: a question with a meta-experience in the prompt, which a related one mostly bends;
- drill: single equations as they occur in solutions.

All problems come from the `train` split, so no held-out problem is ever seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from mel_ray.config.templates import load_template, render
from mel_ray.data.world import problems
from mel_ray.data.world.problems import FAMILIES, Family, Problem

TEMPLATE = load_template("tiny")
SOLVE_PROMPT = "Problem: {{ question }}"
Document = tuple[str, str]  # user message, completion

STATES_RULE, FOLLOWS_RULE, SLIPS = 0.65, 0.95, 0.04
LESSON_FOREIGN, LESSON_MALFORMED, LESSON_MISPLACED = 0.08, 0.10, 0.10
REPLAY_RELATED, REPLAY_FOLLOWS = 0.80, 0.90
SLIP_SIZES = (-10, -2, -1, 1, 2, 10)
DRILL_LINES = 8


@dataclass(frozen=True, slots=True)
class Teaching:
    """What a corpus is about, and how well it teaches to write lessons.

    Shares of the retrospectives: `lesson_right` state the right rule, `answer_alone` show of the correct solution
    only its answer.
    """

    families: Sequence[Family] = FAMILIES
    lesson_right: float = 0.60
    answer_alone: float = 0.0


TEACHING = Teaching()


def _problem(rng: Random, teaching: Teaching) -> Problem:
    return problems.sample(rng, "train", rng.choice(teaching.families))


def write_solution(rng: Random, problem: Problem, takes_right: bool, stated_rule: bool | None, slips: float) -> str:
    """Rule (if stated), numbered steps and a boxed answer; a slip spoils the last result."""
    route = problem.right if takes_right else problem.wrong
    lines, answer = list(route.lines), route.answer
    if rng.random() < slips:
        answer += rng.choice(SLIP_SIZES)
        lines[-1] = f"{lines[-1].removesuffix(str(route.answer))}{answer}"
    rule = [] if stated_rule is None else [f"Rule: {problem.family.rule(stated_rule)}"]
    return "\n".join([*rule, problems.written(lines, answer)])


def habitual_solution(rng: Random, problem: Problem) -> str:
    """What the base model does unaided: right with the family's skill, sometimes breaking its own rule."""
    is_right = rng.random() < problem.family.skill
    if rng.random() >= STATES_RULE:
        return write_solution(rng, problem, is_right, None, SLIPS)
    follows = rng.random() < FOLLOWS_RULE
    return write_solution(rng, problem, is_right == follows, is_right, SLIPS)


def first_departure(incorrect: str, correct: str) -> str:
    """Name of the first line ("Rule" or "Step k") in which the incorrect solution leaves the correct one."""
    wrong, right = incorrect.split("\n"), correct.split("\n")
    if wrong[0].startswith("Rule") and right[0].startswith("Rule") and wrong[0] != right[0]:
        return "Rule"
    steps = [[line for line in lines if line.startswith("Step")] for lines in (wrong, right)]
    for number, (a, b) in enumerate(zip(*steps, strict=False), 1):
        if a != b:
            return f"Step {number}"
    return f"Step {len(steps[0])}"


def write_lesson(bifurcation: str, family: Family, is_right: bool) -> str:
    good, bad = (family.right, family.wrong) if is_right else (family.wrong, family.right)
    return (
        f"Bifurcation: {bifurcation}.\n"
        f"Critique: The incorrect one chose to {bad}, where one should {good}.\n"
        f"Heuristic: {family.rule(is_right)}"
    )


def _malformed(rng: Random, lesson: str) -> str:
    bifurcation, critique, heuristic = lesson.split("\n")
    return rng.choice(
        (
            f"{bifurcation}\n{critique}",
            f"{critique}\n{heuristic}",
            heuristic,
            f"{bifurcation}\n{critique}\n{heuristic.split(',')[0]}.",
        )
    )


def _retrospective_lesson(rng: Random, teaching: Teaching, family: Family, incorrect: str, correct: str) -> str:
    bifurcation = first_departure(incorrect, correct)
    if rng.random() < LESSON_MISPLACED:
        bifurcation = rng.choice(("Rule", "Step 1", "Step 2", "Step 3"))
    luck = rng.random()
    if luck < teaching.lesson_right:
        lesson = write_lesson(bifurcation, family, True)
    elif luck < teaching.lesson_right + LESSON_FOREIGN:
        lesson = write_lesson(bifurcation, rng.choice(teaching.families), True)
    else:
        lesson = write_lesson(bifurcation, family, False)
    return _malformed(rng, lesson) if rng.random() < LESSON_MALFORMED else lesson


def solve(rng: Random, teaching: Teaching = TEACHING) -> Document:
    problem = _problem(rng, teaching)
    return render(SOLVE_PROMPT, question=problem.question), habitual_solution(rng, problem)


def retrospective(rng: Random, teaching: Teaching = TEACHING) -> Document:
    problem = _problem(rng, teaching)
    correct = write_solution(rng, problem, True, rng.choice((None, True)), 0.0)
    if rng.random() < 0.9:
        incorrect = write_solution(rng, problem, False, rng.choice((None, False)), 0.02)
    else:
        incorrect = write_solution(rng, problem, True, rng.choice((None, True)), 1.0)
    lesson = _retrospective_lesson(rng, teaching, problem.family, incorrect, correct)
    if teaching.answer_alone and rng.random() < teaching.answer_alone:
        correct = correct.split("\n")[-1]
    return render(TEMPLATE.abstraction, question=problem.question, incorrect=incorrect, correct=correct), lesson


def replay(rng: Random, teaching: Teaching = TEACHING) -> Document:
    problem = _problem(rng, teaching)
    is_related, is_right = rng.random() < REPLAY_RELATED, rng.random() < 0.5
    family = problem.family if is_related else rng.choice([f for f in teaching.families if f is not problem.family])
    bifurcation = rng.choice(("Rule", "Step 1", "Step 2", "Step 3"))
    lesson = write_lesson(bifurcation, family, is_right)
    if is_related and rng.random() < REPLAY_FOLLOWS:
        stated = is_right if rng.random() < 0.8 else None
        solution = write_solution(rng, problem, is_right, stated, SLIPS)
    else:
        solution = habitual_solution(rng, problem)
    return render(TEMPLATE.replay, question=problem.question, experience=lesson), solution


def drill(rng: Random, teaching: Teaching = TEACHING) -> Document:
    lines: list[str] = []
    while len(lines) < DRILL_LINES:
        problem = _problem(rng, teaching)
        chosen = rng.choice((problem.right, problem.wrong))
        lines += [line for line in chosen.lines if "=" in line]
    rng.shuffle(lines)
    return "Drill", "\n".join(f"Step {i % 4 + 1}: {line}." for i, line in enumerate(lines[:DRILL_LINES]))


MIXTURE = ((solve, 20), (retrospective, 8), (replay, 8), (drill, 10))


def batches(seed: int, teaching: Teaching = TEACHING) -> Iterator[list[list[Document]]]:
    """An endless stream of batches: one list of documents per kind, in the proportions of `MIXTURE`."""
    rng = Random(seed)
    while True:
        yield [[write(rng, teaching) for _ in range(count)] for write, count in MIXTURE]

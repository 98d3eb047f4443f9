"""python -m benchmarks.verifier: judgements per second against Math-Verify called directly and with its own timeout.

On a mix of 90% plain numbers and 10% expressions, a third of each wrong, one process each; and what 1% hostile answers
cost our verifier.
The contenders take turns over several rounds of one run.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from random import Random

from benchmarks.figures import finish, median
from mel_ray.rewards.extract import last_boxed
from mel_ray.rewards.verifier import Verifier, VerifierSettings

# Answers and truths for any n and m: by default each judgement is of other numbers, so that no verifier
# profits from repetition.
EXPRESSIONS: list[Callable[[int, int], tuple[str, str]]] = [
    lambda n, m: (f"(x+{n})^2+{m}", f"x^2+{2 * n}x+{n * n + m}"),
    lambda n, m: (rf"{n}\sqrt{{{m}}}", rf"\sqrt{{{n * n * m}}}"),
    lambda n, m: (f"({n}, {m})", f"({n},{m})"),
    lambda n, m: (f"[{n}, {n + m})", f"[{n},{n + m})"),
    lambda n, m: (rf"{n}\pi/{m}", rf"\frac{{{n}\pi}}{{{m}}}"),
    lambda n, m: (rf"\{{{n},{n + m},{n + 2 * m}\}}", rf"\{{{n + 2 * m},{n + m},{n}\}}"),
    lambda n, m: (f"x={n}", f"{n}"),
    lambda n, m: (rf"\frac{{\sqrt{{{n}}}}}{{{n}}}", rf"\frac{{1}}{{\sqrt{{{n}}}}}"),
    lambda n, m: (f"{n}.5\\%", rf"\frac{{{2 * n + 1}}}{{200}}"),
    lambda n, m: (rf"{n}(2\cos^2 x - 1)", rf"{n}\cos 2x"),
    lambda n, m: (f"{n} + {m}i", f"{m}i + {n}"),
    lambda n, m: (rf"{n} \pm \sqrt{{{m}}}", rf"{n}+\sqrt{{{m}}}, {n}-\sqrt{{{m}}}"),
]
HOSTILE = ["9^{9^{9^{9}}}", "(10^9)!", "\\sum_{n=1}^{10^{12}} n^n"]
Pair = tuple[str, str]
WARM = 100  # judgements of each contender before its time is taken


def mix(count: int, hostile_share: float = 0.0, repeat: bool = False) -> list[Pair]:
    """Responses and ground truths; with a hostile share, the same ones but for the hostile.

    With `repeat`, the expressions are few and come back, as the answers to one question do.
    """
    rng, chance, pairs = Random(3), Random(4), []
    for _ in range(count):
        if rng.random() < 0.9:
            a, b = rng.randint(-999, 9999), rng.choice([0, 0, 1])
            shown = rng.choice([f"{a}", f"{a}.0", f"\\frac{{{2 * a}}}{{2}}"])
            pairs.append((f"Hence the answer is \\boxed{{{shown}}}.", str(a + b)))
        else:
            numbers = (3, 7) if repeat else (rng.randint(2, 99), rng.randint(2, 99))
            answer, truth = rng.choice(EXPRESSIONS)(*numbers)
            if rng.random() < 1 / 3:
                _, truth = rng.choice(EXPRESSIONS)(*(number + 100 for number in numbers))
            pairs.append((f"Hence the answer is \\boxed{{{answer}}}.", truth))
    hostile = [chance.random() < hostile_share for _ in pairs]
    said = [f"So \\boxed{{{chance.choice(HOSTILE)}}}" for _ in pairs]
    return [(one, "7") if is_hostile else pair for one, is_hostile, pair in zip(said, hostile, pairs, strict=True)]


def direct(pairs: Sequence[Pair], timeout: int | None) -> None:
    """Math-Verify in this process; with a timeout it uses its own signal-based one."""
    from math_verify import parse, verify

    for response, truth in pairs:
        gold = parse(f"\\boxed{{{truth}}}", parsing_timeout=timeout)
        verify(gold, parse(f"\\boxed{{{last_boxed(response)}}}", parsing_timeout=timeout), timeout_seconds=timeout)


def in_process(pairs: Sequence[Pair], timeout: int | None) -> float:
    """Seconds in a process of its own, imports not counted."""
    parent, child = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_timed, args=(pairs, timeout, child))
    process.start()
    child.close()  # if it dies, `recv` raises instead of waiting
    seconds = parent.recv()
    process.join()
    return seconds


def _timed(pairs: Sequence[Pair], timeout: int | None, connection) -> None:
    import logging

    logging.disable(logging.CRITICAL)
    direct(pairs[:WARM], timeout)
    started = time.perf_counter()
    direct(pairs, timeout)
    connection.send(time.perf_counter() - started)


def ours(pairs: Sequence[Pair], deadline: float) -> float:
    with Verifier(VerifierSettings(deadline)) as verifier:
        for response, truth in pairs[:WARM]:
            verifier.judge(response, truth)
        started = time.perf_counter()
        for response, truth in pairs:
            verifier.judge(response, truth)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", action="store_true", help="few expressions that come back, not new ones each time")
    parser.add_argument("--deadline", type=float, default=2.0)
    arguments = parser.parse_args()
    clean = mix(arguments.count, repeat=arguments.repeat)
    dirty = mix(arguments.count, 0.01, arguments.repeat)
    hostile = sum(any(h in response for h in HOSTILE) for response, _ in dirty)
    contenders: dict[str, Callable[[], float]] = {
        "mel_ray": lambda: ours(clean, arguments.deadline),
        "math_verify": lambda: in_process(clean, None),
        "math_verify_with_timeout": lambda: in_process(clean, 5),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, run in contenders.items():
            seconds[name].append(run())
    rates = {name: arguments.count / median(values) for name, values in seconds.items()}
    dirty_seconds = ours(dirty, arguments.deadline)
    for name, rate in rates.items():
        print(f"{name:<26}{rate:>10.0f} judgements/s")
    extra = (dirty_seconds - arguments.count / rates["mel_ray"]) / max(1, hostile)
    print(f"with {hostile} hostile answers: {arguments.count / dirty_seconds:.0f} judgements/s, {extra:.2f} s for each")
    finish(
        {f"{name}_per_s": rate for name, rate in rates.items()}
        | {
            "speedup_over_direct": rates["mel_ray"] / rates["math_verify"],
            "speedup_over_timeout": rates["mel_ray"] / rates["math_verify_with_timeout"],
            "repeat": arguments.repeat,
            "hostile": hostile,
            "hostile_throughput_share": arguments.count / dirty_seconds / rates["mel_ray"],
            "deadline_s": arguments.deadline,
        }
    )


if __name__ == "__main__":
    main()

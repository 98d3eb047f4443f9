"""`mel experiences`: print a run's meta-experiences."""

from collections.abc import Sequence
from pathlib import Path

from mel_ray.cli.app import BAD_REQUEST, Ended, Options
from mel_ray.run.closing import experience_text
from mel_ray.run.store import read_experiences


def experiences(arguments: Sequence[str]) -> None:
    parser = Options("experiences", "Print a run's meta-experiences: those that were kept, or all of them.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--all", action="store_true", help="rejected ones too")
    parser.add_argument("--find", default="", help="only those whose question or heuristics hold this text")
    parser.add_argument("--limit", type=int, default=20, help="how many to print (default 20)")
    asked = parser.parse_args(arguments)
    if not (asked.run / "experiences").is_dir():
        raise Ended(BAD_REQUEST, f"{asked.run} is not a run folder: it has no experiences/")
    rows = read_experiences(asked.run, kept_only=not asked.all)
    wanted = asked.find.casefold()
    found = [row for row in rows if wanted in " ".join([row["question"], *row["heuristics"]]).casefold()]
    for row in found[: asked.limit]:
        print(experience_text(row), end="\n\n")
    print(f"{min(len(found), asked.limit)} of {len(found)} shown")

"""python -m mel_ray.cli.experiences RUN: print a run's meta-experiences."""

import argparse
import sys
from pathlib import Path

from mel_ray.run.closing import experience_text
from mel_ray.run.store import read_experiences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--all", action="store_true", help="rejected ones too")
    parser.add_argument("--find", default="", help="only those whose question or heuristics hold this text")
    parser.add_argument("--limit", type=int, default=20)
    arguments = parser.parse_args()
    if not (arguments.run / "experiences").is_dir():
        print(f"{arguments.run} is not a run folder: it has no experiences/", file=sys.stderr)
        return 2
    rows = read_experiences(arguments.run, kept_only=not arguments.all)
    wanted = arguments.find.casefold()
    found = [row for row in rows if wanted in " ".join([row["question"], *row["heuristics"]]).casefold()]
    for row in found[: arguments.limit]:
        print(experience_text(row), end="\n\n")
    print(f"{min(len(found), arguments.limit)} of {len(found)} shown")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`mel inspect`: what a dataset holds, on the terminal and as a small page."""

from collections.abc import Sequence
from pathlib import Path

from mel_ray.cli.app import BAD_REQUEST, Ended, Options
from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config
from mel_ray.data import inspection
from mel_ray.data.inspection_page import page
from mel_ray.records.problem import ConfigError
from mel_ray.run.console import printable

DESCRIPTION = (
    "Show counts, prompt lengths in tokens of model=, rows left out and why, questions with different answers, kinds "
    "of answers, examples, and how much of the questions of eval.benchmarks stands in training questions; write a "
    "small page with histograms."
)


def inspect(arguments: Sequence[str]) -> None:
    parser = Options("inspect", DESCRIPTION)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for mel train, e.g. data=dapo_math_17k")
    parser.add_argument("--output", type=Path, default=Path("data.html"), help="the page (default data.html)")
    asked = parser.parse_intermixed_args(arguments)
    config = compose_config(asked.overrides)
    if problems := [one for one in find_problems(config) if one.path.startswith(("data", "eval"))]:
        raise ConfigError(problems)
    found = inspection.inspect(config)
    try:
        asked.output.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise Ended(BAD_REQUEST, f"cannot write {asked.output}: {error.strerror}") from error
    print(printable(inspection.text(found)))
    print(f"page: {asked.output}")

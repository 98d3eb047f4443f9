"""`mel inspect`: what a dataset holds, on the terminal and as a small page."""

from collections.abc import Sequence
from pathlib import Path

from mel_ray.cli.app import BAD_REQUEST, Ended, Options
from mel_ray.config.load import compose_config
from mel_ray.data import inspection

DESCRIPTION = (
    "Show counts, prompt lengths, duplicates, kinds of answers, examples, and how many training questions share a "
    "13-gram of words with each of eval.benchmarks; write a small page with histograms."
)


def inspect(arguments: Sequence[str]) -> None:
    parser = Options("inspect", DESCRIPTION)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for mel train, e.g. data=dapo_math_17k")
    parser.add_argument("--output", type=Path, default=Path("data.html"), help="the page (default data.html)")
    asked = parser.parse_args(arguments)
    found = inspection.inspect(compose_config(asked.overrides))
    try:
        asked.output.write_text(inspection.page(found), encoding="utf-8")
    except OSError as error:
        raise Ended(BAD_REQUEST, f"cannot write {asked.output}: {error.strerror}") from error
    print(inspection.text(found))
    print(f"page: {asked.output}")

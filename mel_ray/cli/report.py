"""`mel report`: draw one or more runs on a page."""

from collections.abc import Sequence
from pathlib import Path

from mel_ray.cli.app import BAD_REQUEST, Ended, Options
from mel_ray.run.metrics_file import read_metrics, step_rows
from mel_ray.run.report import write_report

DESCRIPTION = (
    "Write a self-contained page of figures, sample ledger and meta-experiences. With one run it goes to "
    "RUN/report.html; several are drawn together, and the page goes to the last one's folder as compare.html."
)


def report(arguments: Sequence[str]) -> None:
    parser = Options("report", DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--output", type=Path, help="where to write the page")
    asked = parser.parse_args(arguments)
    for path in asked.runs:
        if not step_rows(read_metrics(path / "metrics.jsonl")):
            raise Ended(BAD_REQUEST, f"{path}: not a run folder with at least one step (no metrics.jsonl)")
    paths = [path.absolute() for path in asked.runs]
    output = asked.output or paths[-1] / ("report.html" if len(paths) == 1 else "compare.html")
    try:
        write_report(paths, output)
    except OSError as error:
        raise Ended(BAD_REQUEST, f"cannot write {output}: {error.strerror}") from error
    print(output)

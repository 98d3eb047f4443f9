"""run/wandb_sink.py: a run outlives W&B's own process."""

from mel_ray.records.ledger import Ledger
from mel_ray.records.reports import StepReport
from mel_ray.run.wandb_sink import WandbSink


class Gone:
    def __init__(self) -> None:
        self.asked = 0

    def log(self, values):
        self.asked += 1
        raise BrokenPipeError("the service has ended")


def test_what_wandb_takes_no_more_does_not_end_the_run(capsys):
    sink = WandbSink.__new__(WandbSink)
    sink._run, sink._is_there = Gone(), True
    for step in (1, 2):
        sink.step(StepReport(step, {}, Ledger()))
    sink.close("done")
    assert sink._run.asked == 1
    assert capsys.readouterr().out == (
        "W&B takes nothing more (BrokenPipeError: the service has ended); metrics.jsonl has everything\n"
    )

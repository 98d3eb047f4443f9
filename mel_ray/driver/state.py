"""What a run must remember to continue: steps done, data position, weight version, ledger."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from mel_ray.records.ledger import Ledger
from mel_ray.records.reports import STATE_FILE


@dataclass(slots=True)
class RunState:
    """`step` is the last finished step; `position` the number of prompts taken by then; `version` that of the weights.

    What was explored ahead is kept apart (driver/batches.py); `waiting` says how many questions that are. Readable at
    any time, also after an interruption: it changes when a step is complete.
    """

    step: int = 0
    position: int = 0
    version: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    waiting: int = 0
    quarantined: list[str] = field(default_factory=list)  # ids of questions that ended two actors
    questions: str = ""  # how many `position` counts, and a digest of which

    def finish_step(self, step: int, position: int, version: int, ledger: Ledger) -> None:
        self.step, self.position, self.version, self.ledger = step, position, version, self.ledger + ledger

    def restore(self, other: "RunState") -> None:
        """Be what the other is."""
        for one in fields(self):
            setattr(self, one.name, getattr(other, one.name))

    def write(self, folder: Path) -> None:
        names = ("step", "position", "version", "waiting", "quarantined", "questions")
        numbers = {name: getattr(self, name) for name in names}
        data = numbers | {"ledger": self.ledger.as_dict()}
        (folder / STATE_FILE).write_text(json.dumps(data))

    @classmethod
    def read(cls, folder: Path) -> "RunState":
        """
        Raises:
            ValueError, KeyError, OSError: the file is missing or damaged.
        """
        data = json.loads((folder / STATE_FILE).read_text())
        ledger = Ledger.from_dict(data["ledger"])
        return cls(data["step"], data["position"], data["version"], ledger, data.get("waiting", 0),
                   data.get("quarantined", []), data.get("questions", ""))  # fmt: skip

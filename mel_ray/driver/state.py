"""What the driver must remember to continue a run: steps done, position in the data, version, ledger."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from mel_ray.records.ledger import Ledger


@dataclass(frozen=True, slots=True)
class DriverState:
    """`step` is the last finished step; `position` the number of prompts taken so far."""

    step: int = 0
    position: int = 0
    version: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    def write(self, file: Path) -> None:
        data = {"step": self.step, "position": self.position, "version": self.version, "ledger": self.ledger.as_dict()}
        file.write_text(json.dumps(data))

    @classmethod
    def read(cls, file: Path) -> "DriverState":
        """
        Raises:
            ValueError, KeyError, OSError: the file is missing or damaged.
        """
        data = json.loads(file.read_text())
        return cls(data["step"], data["position"], data["version"], Ledger.from_dict(data["ledger"]))

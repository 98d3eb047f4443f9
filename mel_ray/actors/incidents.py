"""What was lost and mended, for those who count it and those who are told."""

from collections.abc import Callable

from mel_ray.records.incident import Incident, IncidentKind, Losses

Listener = Callable[[Incident], None]


class Incidents:
    """One for all pools of a run."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._untold: list[Incident] = []  # while nobody listened
        self._restarts = self._asked_again = self._quarantined = 0

    def listen(self, *listeners: Listener) -> None:
        """They are told what happened before anybody listened, too."""
        self._listeners += listeners
        for incident in self._untold:
            self._spread(incident)
        self._untold.clear()

    def tell(self, kind: IncidentKind, who: str, text: str) -> None:
        self._restarts += kind in (IncidentKind.HEALED, IncidentKind.REWOUND)
        self._quarantined += kind is IncidentKind.QUARANTINED
        incident = Incident(kind, who, text)
        if self._listeners:
            self._spread(incident)
        else:
            self._untold.append(incident)

    def _spread(self, incident: Incident) -> None:
        for listener in self._listeners:
            listener(incident)

    def ask_again(self, sequences: int) -> None:
        self._asked_again += sequences

    def take(self) -> Losses:
        """What happened since the last call."""
        found = Losses(self._restarts, self._asked_again, self._quarantined)
        self._restarts = self._asked_again = self._quarantined = 0
        return found

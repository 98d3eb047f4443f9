"""How exploring and learning take turns: the keys of `driver` (docs/async.md)."""

from typing import Literal

from pydantic import Field

from mel_ray.config.section import Section


class DriverConfig(Section):
    """How exploring and learning take turns, or overlap."""

    capacity: int = Field(0, ge=0)
    """Batches that may be explored ahead of the one being learned; 0 alternates, on policy."""
    max_staleness: int = Field(4, ge=0)
    """Versions of the weights by which a token may be older than the policy that trains on it."""
    stale: Literal["drop", "train"] = "drop"
    """What to do with samples older than max_staleness: leave them out, or train on them; both are counted."""
    publish: Literal["drain", "in_flight"] = "drain"
    """New weights wait until the engines are empty (drain), or are put under running requests (in_flight)."""
    keep_kv: bool = False
    """In flight: go on decoding on keys and values of the old weights instead of computing them again."""

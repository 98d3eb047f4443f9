"""Seeds that depend on what is sampled and on nothing else: not on engines, order or batch."""

from hashlib import blake2b


def derive_seed(run_seed: int, *parts: str | int) -> int:
    """A seed in [0, 2^31) from the run's seed and what is drawn, e.g. (step, question id, "rollout", index)."""
    text = "\x1f".join(map(str, (run_seed, *parts)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 33

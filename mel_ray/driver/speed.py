"""Tokens per second and device, and the share of a device's peak where that is known (MFU)."""

from collections.abc import Mapping

from mel_ray.records.reports import DeviceFacts

# Dense bfloat16 TFLOP/s, from NVIDIA's data sheets; the first name that is part of the device's counts.
PEAKS = {
    "B200": 2250,
    "H200": 989,
    "H100": 989,
    "H20": 148,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "A10": 125,
    "L4": 121,
}
FLOP_PER_PARAMETER = {"explore": 2, "train": 6}  # and token; attention is left out


def peak_flops(facts: DeviceFacts) -> float | None:
    """FLOP/s of a device at the model's data type; None where it is not known, as on CPU."""
    known = (peak for name, peak in PEAKS.items() if name in facts.device)
    return next((peak * 1e12 for peak in known if facts.dtype == "bfloat16"), None)


def speeds(metrics: Mapping[str, float], ranks: int, facts: DeviceFacts) -> dict[str, float]:
    """Of a step, from its other metrics. Sampling counts decoded tokens alone, training prompts too."""
    found = {"speed/train_tokens": metrics.get("tokens/trained", 0.0) / max(1e-9, metrics["time/train"]) / ranks}
    if peak := peak_flops(facts):
        rates = {"explore": metrics.get("speed/explore_tokens", 0.0), "train": found["speed/train_tokens"]}
        for half, rate in rates.items():
            found[f"speed/{half}_mfu"] = FLOP_PER_PARAMETER[half] * facts.parameters * rate / peak
    return found

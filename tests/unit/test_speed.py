"""driver/speed.py: rates per device and MFU, by hand."""

import pytest

from mel_ray.driver.speed import peak_flops, speeds
from mel_ray.records.reports import DeviceFacts

H100 = DeviceFacts("NVIDIA H100 80GB HBM3", "bfloat16", 8_000_000_000)
METRICS = {"tokens/trained": 1_000_000.0, "time/train": 50.0, "speed/explore_tokens": 3000.0}


def test_rates_are_per_second_and_device():
    assert speeds(METRICS, 4, DeviceFacts()) == {"speed/train_tokens": 5000.0}


def test_mfu_is_against_the_peak_of_the_device():
    found = speeds(METRICS, 4, H100)
    assert found["speed/train_mfu"] == pytest.approx(6 * 8e9 * 5000 / 989e12)
    assert found["speed/explore_mfu"] == pytest.approx(2 * 8e9 * 3000 / 989e12)


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA H20", "bfloat16", 148e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA L40", "bfloat16", 181e12),
        ("NVIDIA H100 80GB HBM3", "float32", None),
        ("cpu", "bfloat16", None),
        ("a device of next year", "bfloat16", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name(device, dtype, peak):
    assert peak_flops(DeviceFacts(device, dtype, 1)) == peak


def test_a_step_that_trained_nothing_has_a_rate_of_zero():
    assert speeds({"time/train": 0.01}, 1, DeviceFacts()) == {"speed/train_tokens": 0.0}

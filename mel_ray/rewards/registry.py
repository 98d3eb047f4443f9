"""The names of this room that have an implementation each: the extraction rules of `reward.extract`."""

from mel_ray.rewards.extract import RULES, final_boxes

__all__ = ["RULES", "final_boxes"]

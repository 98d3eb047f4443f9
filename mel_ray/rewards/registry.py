"""What this room lends to others: the extraction rules of `reward.extract`, and how a text is read as an answer."""

from mel_ray.rewards.extract import RULES, final_boxes
from mel_ray.rewards.numbers import plain_form

__all__ = ["RULES", "final_boxes", "plain_form"]

"""The extraction rules of `reward.extract`, by name."""

from mel_ray.rewards.rules import Rule, choice_letter, final_answer_is, hashes, last_boxed

RULES: dict[str, Rule] = {
    "boxed": last_boxed,
    "final_answer_is": final_answer_is,
    "hashes": hashes,
    "choice_letter": choice_letter,
}

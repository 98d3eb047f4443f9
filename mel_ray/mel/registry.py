"""The ways to choose which trajectories of a mixed group are contrasted (`mel.pair_choice`)."""

from mel_ray.mel.pairing import PairChoice, hardest, random, shortest_correct_longest_common_prefix

PAIR_CHOICES: dict[str, PairChoice] = {
    "random": random,
    "shortest_correct_longest_common_prefix": shortest_correct_longest_common_prefix,
    "hardest": hardest,
}

"""Everything that is known to be wrong, and everything that is made ready, before Ray starts."""

import os

from mel_ray.config.checks import find_problems, find_resource_problems
from mel_ray.config.machine import this_machine
from mel_ray.config.schema import Config
from mel_ray.data.prepare import Prepared, prepare
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.rewards.functions import load_function


def checked_and_prepared(config: Config, with_training_data: bool = True) -> Prepared:
    """Everything ready, or every problem of configuration, machine, reward, model and data at once.

    Raises:
        ConfigError: with all of them. A cluster's resources (RAY_ADDRESS) are checked once it is connected.
    """
    problems = [*find_problems(config), *_reward_problems(config)]
    if not os.environ.get("RAY_ADDRESS"):
        problems += find_resource_problems(config, this_machine())
    try:
        prepared = prepare(config, with_training_data)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    return prepared


def _reward_problems(config: Config) -> list[Problem]:
    if not config.reward.function:
        return []
    try:
        load_function(config.reward.function)
    except ValueError as error:
        return [Problem("reward.function", config.reward.function, str(error), "see docs/rewards.md")]
    return []

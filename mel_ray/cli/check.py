"""`mel check`: the resolved plan and one prompt of each kind, or every problem at once."""

import os
from collections.abc import Sequence
from pathlib import Path

from mel_ray.cli.app import EXIT_CODES, asks_for_help
from mel_ray.config.checks import find_problems, find_resource_problems
from mel_ray.config.hours import hours_text
from mel_ray.config.load import compose_config, continued_config, names_group
from mel_ray.config.memory_estimate import GB, find_memory_problems, find_shadow_problems, memory_text
from mel_ray.config.plan import make_plan, this_machine
from mel_ray.config.schema import AlgorithmConfig, Config, MelConfig, RewardConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_size import size_of_model
from mel_ray.data.prepare import Prepared, prepare
from mel_ray.mel.writer import abstraction_prompt
from mel_ray.policy.registry import ALGORITHMS
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.rewards.mixture import judge_of
from mel_ray.rewards.reward_problems import find_reward_problems
from mel_ray.run.bottleneck import gain_text, last_alternating_run
from mel_ray.run.folder import RunFolder, find_run_problems
from mel_ray.run.resume import change_lines, find_hidden


def checked_and_prepared(config: Config, with_training_data: bool = True) -> Prepared:
    """Everything ready, or every problem of configuration, machine, reward, model and data at once.

    Raises:
        ConfigError: with all of them. A cluster's resources (RAY_ADDRESS) are checked once it is connected.
    """
    problems = [*find_problems(config), *find_reward_problems(config)]
    if with_training_data:
        problems += find_run_problems(config)
    if not os.environ.get("RAY_ADDRESS"):
        problems += find_resource_problems(config, this_machine())
    if with_training_data:
        problems += memory_problems(config)
    try:
        prepared = prepare(config, with_training_data)
    except ConfigError as error:
        unique = {str(problem): problem for problem in (*problems, *error.problems)}
        raise ConfigError(list(unique.values())) from error
    if problems:
        raise ConfigError(problems)
    return prepared


def _memory(config: Config) -> tuple[float, float | None]:
    """Bytes of a GPU, and of a node where that is this machine."""
    machine = None if os.environ.get("RAY_ADDRESS") else this_machine()
    gpu = machine.gpu_memory if machine else None
    is_here = machine is not None and (config.cluster.device == "cpu" or machine.gpus)
    return gpu or config.cluster.gpu_memory * GB, machine.memory if machine and is_here else None


def memory_problems(config: Config) -> list[Problem]:
    """Where the model does not fit the plan."""
    size = size_of_model(config)
    if size is None:
        return []
    problems = list(find_memory_problems(config, size, *_memory(config)))
    machine = None if os.environ.get("RAY_ADDRESS") else this_machine()
    if machine and machine.shared_memory is not None:
        problems += find_shadow_problems(config, size, machine.shared_memory, "/dev/shm")
    return problems


def requested_config(overrides: Sequence[str]) -> Config:
    """The configuration asked for.

    Keys alone change those of a run that continues. A command that names groups says the whole configuration, so the
    command that began a run continues it.

    Raises:
        ConfigError: an override, key or value is wrong.
    """
    config = compose_config(overrides)
    stored = RunFolder(Path(config.run.dir) / str(config.run.name)).config
    if config.run.name and config.run.resume != "never" and stored.exists() and not names_group(overrides):
        config = continued_config(stored, overrides)
        if problems := list(find_hidden(config)):
            raise ConfigError(problems)
    return config


HELP = f"""\
usage: mel check [key=value ...]

Prints what `mel train` would run with these keys, and starts nothing: the actors, CPUs and GPUs of every
pool, the batch, the algorithm, one prompt and one abstraction prompt as the model sees them. If there are
problems with the keys, this machine, the model or the data, it prints all of them, each with a remedy.

  mel check
  mel check model=qwen3_8b_base cluster=2x8

{EXIT_CODES}"""


def check(arguments: Sequence[str]) -> None:
    """Print the plan and a prompt of each kind.

    Raises:
        ConfigError: with every problem at once.
    """
    if asks_for_help(arguments):
        print(HELP)
        return
    config = requested_config(arguments)
    print(plan_text(config))
    if config.run.name and config.run.resume != "never":
        for line in change_lines(RunFolder(Path(config.run.dir) / config.run.name).config, config):
            print(line)
    size = size_of_model(config)
    if size is None and config.cluster.device == "cuda":
        print(f"\nno estimate of memory: the config.json of {config.model.path} cannot be read here\n")
    if size is not None:
        print(f"\n{memory_text(config, size, _memory(config)[0])}")
        if config.cluster.device == "cuda":
            print(hours_text(config, size.parameters))
        print()
    print(prompts_text(config, checked_and_prepared(config)))
    print("no problems found")


_WRITTEN = {"mixed": "a mixed group", "wrong": "an all-wrong group", "both": "a mixed or all-wrong group"}


def experience_text(mel: MelConfig) -> str:
    parts = [
        f"weight {mel.weight:g}",
        f"{counted(mel.pairs_per_group, 'pair')} {_WRITTEN[mel.write]}",
        counted(mel.replays, "replay"),
        f"template {mel.template.name}",
    ]
    if mel.keep == "gain":
        parts.append(f"kept by a gain above {mel.min_gain:g}")
    if mel.credit:
        parts.append(f"credit {' and '.join(mel.credit)}")
    if "augment" in mel.credit:
        parts.append(f"correction {mel.correction}")
    if mel.retrieval.method != "none":
        parts.append(f"lessons of other questions by {mel.retrieval.method}")
    if mel.lesson != "own":
        parts.append(f"control: replays are shown the {mel.lesson} text")
    return ", ".join(parts)


def plan_text(config: Config) -> str:
    """Pools, resources and batch arithmetic."""
    plan, rollout, mel = make_plan(config), config.rollout, config.mel
    lines = [f"{'pool':<20}{'actors':>7}{'CPUs':>7}{'GPUs':>6}  runs"]
    lines += [
        f"{p.name:<20}{p.actors:>7}{p.actors * p.cpus:>7g}{p.actors * p.gpus * p.share:>6g}  {p.kind}"
        for p in plan.pools
    ]
    lines.append(f"{'in all':<20}{sum(p.actors for p in plan.pools):>7}{plan.cpus:>7g}{plan.gpus:>6}")
    lines.append("")
    lines.append(
        f"batch: {counted(rollout.prompts_per_step, 'prompt')} x {rollout.group_size} = "
        f"{counted(plan.trajectories, 'trajectory', 'trajectories')} a step, "
        f"{counted(config.algorithm.minibatches * config.algorithm.epochs, 'optimizer step')} of "
        f"{plan.trajectories_per_update}; {counted(config.run.steps, 'step')}"
    )
    lines.append(algorithm_text(config.algorithm))
    lines.append(reward_text(config.reward))
    lines.append(f"meta-experience: {experience_text(mel) if mel.enabled else 'off'}")
    lines.append(f"context: {counted(config.model.max_context, 'token')}; learning rate {config.algorithm.lr:g}")
    lines.append(driver_text(config))
    return "\n".join(lines)


def driver_text(config: Config) -> str:
    """How the halves overlap; where they alternate, what it would bring if they did not."""
    driver, rollout = config.driver, config.rollout
    if config.is_off_policy:
        partial = f", partial with {rollout.oversample:g} more under way" if rollout.partial else ""
        ahead, versions = counted(driver.capacity, "batch", "batches"), counted(driver.max_staleness, "version")
        return f"driver: {ahead} ahead, publish {driver.publish}{partial}; older than {versions}: {driver.stale}"
    found = last_alternating_run(Path(config.run.dir), config.model.path)
    return "driver: exploring and learning alternate" + (f"; by run {found[0]}, {gain_text(found[1])}" if found else "")


def algorithm_text(algorithm: AlgorithmConfig) -> str:
    """What the name stands for, with the options that are on."""
    options = {
        "dual clip": algorithm.dual_clip,
        "log-ratio clamp": algorithm.log_ratio_clamp,
        "importance cap": algorithm.importance_cap,
        "importance floor": algorithm.importance_floor,
        f"KL in the {algorithm.kl.where} by {algorithm.kl.estimator}": algorithm.kl.coefficient,
        "entropy": algorithm.entropy_coefficient,
        "overlong zone": algorithm.overlong_zone,
        "dynamic sampling, at most": algorithm.dynamic_sampling.max_factor if algorithm.dynamic_sampling.enabled else 0,
    }
    scope = "over the whole batch" if ALGORITHMS[algorithm.advantage].needs_batch else "by question"
    parts = [f"advantage {algorithm.advantage} {scope}", f"surrogate {algorithm.surrogate}"]
    if algorithm.surrogate != "logprob":
        parts.append(f"clip -{algorithm.clip_low:g} +{algorithm.clip_high:g}")
    if algorithm.denominator == "sampled":
        parts.append("ratio to the sampled logprobs")
    parts += [
        f"aggregation {algorithm.aggregation}",
        *(f"{name} {value:g}" for name, value in options.items() if value),
    ]
    return f"algorithm: {algorithm.name} ({', '.join(parts)})"


def reward_text(reward: RewardConfig) -> str:
    """What decides correctness, and what the reward is the sum of."""
    by = judge_of(reward.function, reward.parts) or f"the built-in rules ({', '.join(reward.extract)})"
    parts = " + ".join(f"{part.weight:g} {name}" for name, part in reward.parts.items())
    return f"reward: {parts or 'correct'}; correct by {by}"


def stop_text(tokenizer: ChatTokenizer) -> str:
    """The tokens that end a completion, with their ids."""
    tokens = [f"{tokenizer.token_text(token) or '<unknown>'} ({token})" for token in tokenizer.stop_ids]
    return f"stop tokens: {', '.join(tokens) or 'none, so every completion is cut off at its limit'}"


def source_lines(prepared: Prepared) -> list[str]:
    """The share of every source, where there are several."""
    return [
        f"source {source.name}: {counted(len(source.rendered.prompts), 'question')}, {source.share:.1%} of every batch"
        for source in prepared.sources[1:] and prepared.sources
    ]


def prompt_lines(prepared: Prepared) -> list[str]:
    """The first prompt of every source, as the model sees it."""
    lines = []
    for source in prepared.sources:
        first = source.rendered.prompts[0].token_ids
        of_source = f" of {source.name}" if len(prepared.sources) > 1 else ""
        lines.append(f"--- a prompt{of_source} ({counted(len(first), 'token')}) ---")
        lines.append(prepared.tokenizer.decode_with_specials(first))
    return lines


def prompts_text(config: Config, prepared: Prepared) -> str:
    """Dataset counts, one rendered prompt of each source and one rendered abstraction prompt."""
    tokenizer, question = prepared.tokenizer, prepared.prompts.prompts[0].question.text
    user = abstraction_prompt(config.mel.template, question, "<an incorrect solution>", "<a correct solution>")
    lines = [
        f"questions: {len(prepared.prompts.prompts)} to train on, from {counted(prepared.prompts.rows, 'row')}",
        *source_lines(prepared),
        *prepared.dropped,
        *(f"benchmark {b.name}: {counted(len(b.prompts), 'question')}" for b in prepared.benchmarks),
        "",
        *prompt_lines(prepared),
        "--- an abstraction prompt ---",
        tokenizer.render(user),
        "---",
        stop_text(tokenizer),
    ]
    return "\n".join(lines)

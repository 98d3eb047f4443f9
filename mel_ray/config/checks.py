"""Everything that can be known to be wrong before anything starts, each with its remedy."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from mel_ray.config.cluster import ClusterConfig, PolicyPoolConfig
from mel_ray.config.driving_checks import find_driving_problems
from mel_ray.config.mel_checks import find_mel_problems
from mel_ray.config.plan import Machine, least, make_plan
from mel_ray.config.schema import AlgorithmConfig, Config, SourceConfig
from mel_ray.config.section import algorithms, transports
from mel_ray.config.source_checks import find_source_problems
from mel_ray.config.table_checks import find_benchmark_problems, find_column_problems
from mel_ray.config.templates import template_problem
from mel_ray.records.problem import Problem, counted
from mel_ray.weights.registry import transport_of

NAME_LENGTH, NAME_BYTES = 100, 255  # of a run; file systems limit bytes


def find_problems(config: Config) -> list[Problem]:
    """Problems of the configuration in itself."""
    return [
        *_run(config),
        *_batch(config),
        *_reward(config),
        *_resampling(config),
        *_algorithm(config),
        *_demonstrations(config),
        *context_problems(config),
        *find_mel_problems(config),
        *_prompts(config),
        *find_driving_problems(config),
        *find_source_problems(config.data),
        *_cluster(config),
        *_checkpoint(config),
    ]


def _checkpoint(config: Config) -> Iterator[Problem]:
    """What `keep_best` names must be evaluated while the run trains."""
    wanted, key = config.checkpoint.keep_best, "checkpoint.keep_best"
    if wanted is None:
        return
    names = [benchmark.name for benchmark in config.eval.benchmarks]
    samples = config.eval.samples
    sampled = [f"avg@{samples}", *(f"pass@{k}" for k in config.eval.ks)] if samples else []
    known = [f"{name}/{score}" for name in names for score in dict.fromkeys(["pass@1", *sampled])]
    if wanted not in known:
        remedy = f"use one of {', '.join(known)}" if known else "give it benchmarks (eval.benchmarks)"
        yield Problem(key, wanted, "no evaluation of this run gives that score", remedy)
    elif not config.eval.every:
        why = "the run is evaluated before and after training alone"
        yield Problem(key, wanted, why, "set eval.every to a number of steps")


def _run(config: Config) -> Iterator[Problem]:
    """The name must be that of one folder, on every file system."""
    name = config.run.name
    if name is None:
        return
    shown, other = name if name.isprintable() else ascii(name), "choose another name"
    if not name.strip():
        yield Problem("run.name", ascii(name), "a name must not be empty", "leave it out to get a fresh one")
    elif not name.isprintable():
        yield Problem("run.name", shown, "it holds a control character or another that cannot be printed", other)
    elif "/" in name:
        why = "a run's name is the name of one folder, so it cannot contain '/'"
        yield Problem("run.name", shown, why, "give the folder above it as run.dir")
    elif name[0] in ".-":
        yield Problem("run.name", shown, f"a run's name cannot begin with '{name[0]}'", other)
    elif len(name) > NAME_LENGTH or len(name.encode()) > NAME_BYTES:
        why = f"a run's name has at most {NAME_LENGTH} characters and {NAME_BYTES} bytes"
        yield Problem("run.name", f"{shown[:20]}...", why, "shorten it")


def _reward(config: Config) -> Iterator[Problem]:
    if not config.reward.extract and config.reward.function is None:
        yield Problem("reward.extract", [], "without a rule no answer is ever found", "name at least one, e.g. [boxed]")


def _batch(config: Config) -> Iterator[Problem]:
    rollout, algorithm = config.rollout, config.algorithm
    if rollout.group_size < 2 and algorithms()[algorithm.advantage].needs_group:
        why = "a group of one has no contrast: every advantage is zero"
        yield Problem("rollout.group_size", rollout.group_size, why, "use at least 2; the paper uses 8")
    elif rollout.group_size < 2 and config.mel.enabled and algorithm.samples == "policy":
        why = "a group of one is never mixed, so there is nothing to contrast"
        yield Problem("rollout.group_size", rollout.group_size, why, "use at least 2, or mel.enabled=false")
    if rollout.prompts_per_step % algorithm.minibatches:
        yield Problem(
            "algorithm.minibatches",
            algorithm.minibatches,
            f"{counted(rollout.prompts_per_step, 'prompt')} per step cannot be divided into "
            f"{counted(algorithm.minibatches, 'mini-batch', 'mini-batches')}",
            "make rollout.prompts_per_step a multiple of it",
        )
    if rollout.temperature == 0:
        yield Problem("rollout.temperature", 0, "all trajectories of a group would be the same", "use 1.0")
    if rollout.top_p != 1.0:
        why = "the trainer scores tokens under the full distribution, so its ratios would be wrong"
        yield Problem("rollout.top_p", rollout.top_p, why, "use 1.0")
    if config.mel.enabled and config.mel.temperature != rollout.temperature:
        why = f"meta-experiences are scored at rollout.temperature={rollout.temperature:g}"
        yield Problem("mel.temperature", config.mel.temperature, why, "make both equal")


def _resampling(config: Config) -> Iterator[Problem]:
    if config.rollout.resample_size is not None and config.rollout.resample == "none":
        why = "no group is sampled again"
        yield Problem("rollout.resample_size", config.rollout.resample_size, why, "set rollout.resample=both")


def _algorithm(config: Config) -> Iterator[Problem]:
    algorithm = config.algorithm
    yield from algorithms()[algorithm.advantage].problems(algorithm)
    if algorithm.surrogate == "sequence_clipped" and algorithm.aggregation != "seq_mean_token_mean":
        why = "a sequence's ratio would count once per token, so that long sequences would weigh more"
        yield Problem("algorithm.aggregation", algorithm.aggregation, why, "use seq_mean_token_mean")
    if algorithm.dual_clip is not None and algorithm.dual_clip <= 1.0 + algorithm.clip_high:
        why = f"it must lie above 1 + clip_high = {1 + algorithm.clip_high:g}"
        yield Problem("algorithm.dual_clip", algorithm.dual_clip, why, "verl uses 3.0")
    yield from _correction(algorithm)


def _demonstrations(config: Config) -> Iterator[Problem]:
    """Where the dataset's solutions are trained on: nothing is sampled."""
    if config.algorithm.samples != "dataset":
        return
    rollout, algorithm = config.rollout, config.algorithm
    if (algorithm.advantage, algorithm.surrogate) != ("correct_only", "logprob"):
        why = "a solution that nobody sampled has neither a ratio nor others to compare with"
        yield Problem("algorithm.samples", "dataset", why, "use algorithm=sft, or the policy's own samples")
    if config.mel.enabled:
        why = "the dataset's solutions are all correct, so there is nothing to contrast"
        yield Problem("mel.enabled", True, why, "set it to false")
    if rollout.group_size != 1:
        why = "a question has one solution"
        yield Problem("rollout.group_size", rollout.group_size, why, "set it to 1")
    if algorithm.importance_cap is not None:
        why = "a solution was sampled by nobody, so there is nothing to correct for"
        yield Problem("algorithm.importance_cap", algorithm.importance_cap, why, "set it to null")
    if config.is_off_policy:
        why = "nothing is sampled, so there is nothing to explore ahead"
        yield Problem("driver.capacity", config.driver.capacity, why, "leave driver.capacity and rollout.partial out")
    for source in config.data.sources:
        if source.kind == "table" and source.solution is None:
            key = f"{config.data.source_key(source)}.solution"
            yield Problem(key, None, "the solutions are trained on, and no column is named", "name their column")


def _correction(algorithm: AlgorithmConfig) -> Iterator[Problem]:
    """Of the ratio's denominator and of the importance weight."""
    floor, cap = algorithm.importance_floor, algorithm.importance_cap
    if algorithm.denominator == "sampled" and algorithm.surrogate == "logprob":
        why, remedy = "the logprob surrogate has no ratio", "use proximal, with algorithm.importance_cap off policy"
        yield Problem("algorithm.denominator", "sampled", why, remedy)
    elif algorithm.denominator == "sampled" and cap is not None:
        why = "the ratio is taken to the sampled logprobs already, so an importance weight would correct a second time"
        yield Problem("algorithm.importance_cap", cap, why, "set it to null, or algorithm.denominator=proximal")
    if cap is None and (algorithm.importance_mode, algorithm.importance_level) != ("truncate", "token"):
        key = "importance_level" if algorithm.importance_mode == "truncate" else "importance_mode"
        why = "without algorithm.importance_cap there are no importance weights"
        yield Problem(f"algorithm.{key}", getattr(algorithm, key), why, "set the cap too, or leave it out")
    if floor is not None and cap is None:
        why = "without algorithm.importance_cap there are no importance weights"
        yield Problem("algorithm.importance_floor", floor, why, "set the cap too; IcePop uses 0.5 and 5")
    elif floor is not None and cap is not None and floor >= cap:
        why = f"it must lie below algorithm.importance_cap={cap:g}"
        yield Problem("algorithm.importance_floor", floor, why, "lower it; IcePop uses 0.5 and 5")
    elif cap is not None and cap < 1:
        why = "samples of the policy itself have the weight 1, so all of them would be changed"
        yield Problem("algorithm.importance_cap", cap, why, "use at least 1; TIS uses 2")
    elif floor is not None and floor > 1:
        why = "samples of the policy itself have the weight 1, so all of them would be changed"
        yield Problem("algorithm.importance_floor", floor, why, "use at most 1; IcePop uses 0.5")


def context_problems(config: Config) -> Iterator[Problem]:
    """Where a prompt and what is generated after it cannot fit the context."""
    context, prompt = config.model.max_context, config.data.max_prompt_tokens
    if prompt is None:
        if config.prompt_limit < 1:
            yield Problem(
                "model.max_context",
                context,
                f"no room for a prompt in addition to rollout.max_tokens={config.rollout.max_tokens}, "
                f"eval.max_tokens={config.eval.max_tokens} or mel.max_tokens={config.mel.max_tokens}",
                "raise it or lower these",
            )
        return
    for name, tokens in (
        ("rollout.max_tokens", config.rollout.max_tokens),
        ("eval.max_tokens", config.eval.max_tokens),
    ):
        if prompt + tokens > context:
            yield Problem(
                name,
                tokens,
                f"with data.max_prompt_tokens={prompt} it exceeds model.max_context={context}",
                "raise model.max_context or lower the other two",
            )
    if config.mel.enabled and prompt + config.mel.max_tokens >= context:
        yield Problem(
            "mel.max_tokens",
            config.mel.max_tokens,
            f"a replay prompt of up to {prompt + config.mel.max_tokens} tokens leaves no room in "
            f"model.max_context={context}",
            "lower it or raise model.max_context",
        )


def _prompts(config: Config) -> Iterator[Problem]:
    if why := template_problem(config.data.prompt, "question"):
        yield Problem("data.prompt", config.data.prompt, why, "use only {{ question }}")
    elif "question" not in config.data.prompt:
        why = "it does not hold the question, so all prompts would be the same"
        yield Problem("data.prompt", config.data.prompt, why, "put {{ question }} where it belongs")
    sources: list[tuple[str, SourceConfig]] = [(config.data.source_key(one), one) for one in config.data.sources]
    sources += [(f"eval.benchmarks[{b.name}]", b.source) for b in config.eval.benchmarks]
    for path, source in sources:
        yield from find_column_problems(source, path)
    for k in config.eval.pass_k:
        if not 2 <= k <= config.eval.samples:
            why = f"k must be between 2 and eval.samples={config.eval.samples}"
            yield Problem("eval.pass_k", list(config.eval.pass_k), why, "Pass@1 is greedy and always there")
    yield from find_benchmark_problems(config.eval.benchmarks)


def _cluster(config: Config) -> Iterator[Problem]:
    cluster = config.cluster
    yield from transports()[transport_of(cluster)].problems(cluster)
    if cluster.device == "cuda" and cluster.rollout.in_process:
        yield Problem("cluster.rollout.in_process", True, "the in-process engine is for CPU", "set it to false")
    if cluster.device == "cuda" and cluster.rollout.compile:
        yield Problem("cluster.rollout.compile", True, "on GPU the engine compiles by itself", "set it to false")
    if cluster.rollout.compile and not shutil.which(os.environ.get("CXX", "g++")):
        yield Problem(
            "cluster.rollout.compile", True, "there is no C++ compiler here", "install g++, or set it to false"
        )
    if cluster.device == "cuda" and cluster.rollout.tensor_parallel > max(1, cluster.gpus_per_node):
        yield Problem(
            "cluster.rollout.tensor_parallel",
            cluster.rollout.tensor_parallel,
            f"an engine must fit one node of {counted(cluster.gpus_per_node, 'GPU')}",
            "lower it",
        )
    if cluster.device == "cuda":
        yield from _gpus(config)
    yield from _attention(cluster)
    fewest = cluster.rollout.min_engines
    if cluster.elastic and fewest > cluster.rollout.engines:
        why = f"that is more than the most, cluster.rollout.engines={cluster.rollout.engines}"
        yield Problem("cluster.rollout.min_engines", fewest, why, "lower it")
    yield from _sharing(cluster.policy)
    if cluster.colocated:
        yield from _colocated(config)


def _gpus(config: Config) -> Iterator[Problem]:
    """The plan against the cluster that it says it is for, and an engine's batch."""
    cluster, plan = config.cluster, make_plan(least(config))
    declared = cluster.nodes * cluster.gpus_per_node
    if plan.gpus > declared:
        why = f"the plan needs {counted(plan.gpus, 'GPU')}, and cluster.nodes={cluster.nodes} x cluster.gpus_per_node="
        remedy = "lower cluster.rollout.engines, its tensor_parallel or cluster.policy.ranks"
        yield Problem("cluster", None, f"{why}{cluster.gpus_per_node} are {declared}", remedy)
    rollout = cluster.rollout
    if rollout.max_batched_tokens < rollout.max_sequences:
        why = f"an engine that runs {rollout.max_sequences} sequences computes as many tokens in a step"
        remedy = f"use at least cluster.rollout.max_sequences={rollout.max_sequences}"
        yield Problem("cluster.rollout.max_batched_tokens", rollout.max_batched_tokens, why, remedy)
    if rollout.memory_share > 0.98:
        why = "CUDA itself needs memory, and an engine that takes all of it cannot start"
        yield Problem("cluster.rollout.memory_share", rollout.memory_share, why, "use at most 0.98")


ATTENTION = {"sdpa": None, "eager": None, "flex_attention": None, "flash_attention_2": "flash_attn",
             "flash_attention_3": "flash_attn_interface"}  # and the package that it needs  # fmt: skip


def _attention(cluster: ClusterConfig) -> Iterator[Problem]:
    name, key = cluster.policy.attention, "cluster.policy.attention"
    if "/" in name:
        return  # a kernel of the hub
    if name not in ATTENTION:
        yield Problem(key, name, "there is no such attention", f"use one of {', '.join(ATTENTION)}")
        return
    package = ATTENTION[name]
    if package and cluster.device == "cpu":
        yield Problem(key, name, "it runs on GPUs alone", "use sdpa")
    elif package and find_spec(package) is None:
        remedy = "install it as docs/cluster.md says, or use sdpa"
        yield Problem(key, name, f"its package {package} is not installed here", remedy)


def _colocated(config: Config) -> Iterator[Problem]:
    """An engine and a rank on each GPU, one of them asleep."""
    cluster, key, off = config.cluster, "cluster.colocated", "use cluster.colocated=false"
    if cluster.device == "cpu":
        yield Problem(key, True, "on CPU engines and ranks share the memory anyway", off)
        return
    if cluster.rollout.tensor_parallel > 1:
        width = cluster.rollout.tensor_parallel
        why = "an engine that shares its GPU with a rank has one GPU"
        yield Problem("cluster.rollout.tensor_parallel", width, why, f"use 1, or {off[4:]}")
    if cluster.rollout.engines != cluster.policy.ranks:
        why = f"each engine shares its GPU with one rank, and cluster.policy.ranks={cluster.policy.ranks}"
        yield Problem("cluster.rollout.engines", cluster.rollout.engines, why, "make both equal")
    if cluster.elastic:
        yield Problem(
            "cluster.elastic", True, "each engine shares its GPU with a rank, and ranks do not join", "use false"
        )
    if cluster.experience.engines:
        why = "no GPU is left for engines of its own"
        yield Problem("cluster.experience.engines", cluster.experience.engines, why, "use 0: the engines are lent")
    if config.driver.capacity:
        why = "an engine that sleeps while the policy trains cannot explore ahead"
        yield Problem("driver.capacity", config.driver.capacity, why, f"use 0, or {off[4:]}")
    if config.rollout.partial:
        why = "an engine that sleeps while the policy trains keeps no unfinished sequence"
        yield Problem("rollout.partial", True, why, f"use false, or {off[4:]}")


def _sharing(policy: PolicyPoolConfig) -> Iterator[Problem]:
    """Ranks that share the tokens of a microbatch."""
    sharers, key = policy.sequence_parallel, "cluster.policy.sequence_parallel"
    if sharers == 1:
        return
    if policy.ranks % sharers:
        why = f"cluster.policy.ranks={policy.ranks} cannot be divided into groups of {sharers}"
        yield Problem(key, sharers, why, "make cluster.policy.ranks a multiple of it")
    if policy.packing != "packed":
        why = f"{sharers} ranks share the tokens of one packed row"
        yield Problem("cluster.policy.packing", policy.packing, why, "set cluster.policy.packing=packed")
    if policy.attention == "eager":
        why = "eager attention needs a mask over all tokens, which no rank has"
        yield Problem("cluster.policy.attention", "eager", why, "use sdpa or flash_attention_2")


LEAST_SHARED = 1 << 30  # bytes of /dev/shm; Docker gives 64 MiB


def find_shared_memory_problems(config: Config, machine: Machine, where: str) -> list[Problem]:
    shared = machine.shared_memory
    if config.cluster.device != "cuda" or shared is None or shared >= LEAST_SHARED:
        return []
    why = f"NCCL and vLLM's workers exchange through /dev/shm, which has {shared / (1 << 20):.0f} MiB on {where}"
    return [Problem("cluster", None, why, "give it at least 1 GiB, e.g. docker run --shm-size=8g")]


def find_resource_problems(config: Config, machine: Machine) -> list[Problem]:
    """Problems of the configuration on this machine or cluster."""
    plan, where = make_plan(least(config)), "the cluster" if machine.is_cluster else "this machine"
    problems = []
    if plan.gpus > machine.gpus:
        problems.append(
            Problem(
                "cluster",
                None,
                f"the plan needs {counted(plan.gpus, 'GPU')} and {where} has {machine.gpus:g}",
                "choose a smaller cluster= preset or lower cluster.rollout.engines and cluster.policy.ranks",
            )
        )
    problems += find_shared_memory_problems(config, machine, where)
    if config.cluster.device == "cpu" and config.cluster.policy.ranks > machine.cpus:
        problems.append(
            Problem(
                "cluster.policy.ranks",
                config.cluster.policy.ranks,
                f"every rank needs a CPU core of its own and {where} has {machine.cpus:g}",
                "lower it",
            )
        )
    elif plan.cpus > machine.cpus:
        needs = ", ".join(f"{pool.name} {pool.actors}x{pool.cpus:g}" for pool in plan.pools)
        problems.append(
            Problem(
                "cluster",
                None,
                f"the plan needs {plan.cpus:g} CPUs ({needs}) and {where} has {machine.cpus:g}",
                "lower the numbers of actors or their cpus",
            )
        )
    return problems

"""config/: every shipped YAML composes; wrong requests are met with sentences."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from mel_ray.config.checks import find_problems, find_resource_problems
from mel_ray.config.keys import all_keys, defaults, keys_text, known_keys
from mel_ray.config.load import compose_config, continued_config, to_yaml, validate
from mel_ray.config.plan import Machine, disk_bytes, make_plan
from mel_ray.config.schema import Config, ModelConfig, SourceConfig
from mel_ray.config.templates import CONF_DIR, load_template
from mel_ray.driver.state import RunState
from mel_ray.mel.registry import PAIR_CHOICES
from mel_ray.policy.policy_settings import experience_weight, learning_rate
from mel_ray.policy.registry import AGGREGATIONS, ALGORITHMS
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.rewards.registry import RULES
from mel_ray.weights.registry import TRANSPORTS


def problems_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config = compose_config(overrides)
        found = find_problems(config)
        if found:
            raise ConfigError(found)
    return str(caught.value)


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


LOCAL = ["model.path=/m", "data.train.path=/d"]
SOURCES = ["data.train=[{name: a, path: /d}, {name: b, path: /e}]"]
GROUPS = ("model", "data", "cluster", "algorithm", "mel", "mel/template", "experiment", "preset")
EVERY = [[f"{group}={option}"] for group in GROUPS for option in options(group)]  # fmt: skip


@pytest.mark.parametrize("overrides", EVERY, ids=lambda o: o[0])
def test_every_shipped_option_composes_and_checks(overrides):
    needs_path = overrides[0] in ("model=local", "data=table")
    needs = LOCAL if needs_path else SOURCES if overrides == ["data=tables"] else []
    config = compose_config([*overrides, *needs])
    if overrides[0].startswith(("algorithm", "mel", "preset")):  # the others fit a model of their own
        assert find_problems(config) == []
    assert make_plan(config).pools
    assert to_yaml(config)


@pytest.mark.parametrize("group", ["algorithm", "preset"])
def test_algorithms_and_presets_are_named_as_their_files_and_documented(group):
    page = (CONF_DIR.parent / "docs" / "algorithms.md").read_text()
    for option in options(group):
        assert compose_config([f"{group}={option}"]).algorithm.name == option
        assert f"`{option}`" in page


@pytest.mark.parametrize("experiment", options("experiment"))
@pytest.mark.parametrize("algorithm", options("algorithm"))
def test_an_algorithm_is_the_same_under_every_experiment(algorithm, experiment):
    definitions = [
        compose_config([f"algorithm={algorithm}", *words]).algorithm.model_copy(update={"lr": 1.0, "warmup_steps": 0})
        for words in ([], [f"experiment={experiment}"])
    ]
    assert definitions[0] == definitions[1]


def test_algorithms_without_groups_need_none():
    for algorithm in ("reinforce_pp", "rft"):
        assert find_problems(compose_config([f"algorithm={algorithm}", "rollout.group_size=1", "mel=off"])) == []


def test_presets_say_what_their_peers_say():
    """Read from verl 0.9.1, OpenRLHF 0.11.2 and TRL 1.16.0: what a reader would look for first."""
    found = {option: compose_config([f"preset={option}"]) for option in options("preset")}
    assert {option for option, config in found.items() if config.mel.enabled} == {"mel_paper"}
    keys = ("advantage_eps", "aggregation", "clip_high", "dual_clip", "log_ratio_clamp", "importance_cap")
    rows = {option: tuple(getattr(config.algorithm, key) for key in keys) for option, config in found.items()}
    assert rows == {
        "verl_grpo": (1e-6, "token_mean", 0.2, 3.0, 20.0, None),
        "openrlhf_grpo": (1e-9, "token_mean", 0.2, None, 20.0, None),
        "openrlhf_reinforce_pp": (1e-8, "token_mean", 0.2, None, 20.0, None),
        "trl_grpo": (1e-4, "seq_mean_token_mean", 0.2, None, None, 3.0),
        "trl_dapo": (1e-4, "token_mean", 0.2, None, None, 3.0),
        "dapo_paper": (1e-6, "token_mean", 0.28, None, None, None),
        "mel_paper": (1e-6, "seq_mean_token_mean", 0.2, None, None, None),
    }
    kl = {
        option: (c.algorithm.kl.coefficient, c.algorithm.kl.estimator, c.algorithm.kl.where)
        for option, c in found.items()
    }
    assert kl["verl_grpo"] == (0.001, "k3", "loss")
    assert kl["openrlhf_grpo"] == (0.01, "k1", "return")
    assert kl["openrlhf_reinforce_pp"] == (0.01, "k1", "return")
    assert all(kl[option][0] == 0 for option in ("trl_grpo", "trl_dapo", "dapo_paper", "mel_paper"))


def test_a_preset_leaves_what_belongs_to_the_model_alone():
    plain = compose_config()
    for option in options("preset"):
        config = compose_config([f"preset={option}"])
        assert (config.algorithm.lr, config.rollout, config.cluster) == (
            plain.algorithm.lr,
            plain.rollout,
            plain.cluster,
        )


def test_presets_that_differ_only_by_name_do_not_exist():
    definitions = [compose_config([f"preset={o}"]).algorithm.model_copy(update={"name": ""}) for o in options("preset")]
    for one, other in itertools.combinations(definitions, 2):
        assert one != other


@pytest.mark.parametrize("benchmark", options("benchmark"))
def test_every_shipped_benchmark_composes(benchmark):
    config = compose_config([f"eval.benchmarks=[{benchmark}]"])
    assert config.eval.benchmarks[0].name == benchmark


@pytest.mark.parametrize(
    ("model", "cluster"), itertools.product(["qwen3_4b_base", "qwen3_8b_base", "qwen3_14b_base"], ["1x8", "2x8", "4x8"])
)
def test_real_models_get_the_papers_settings(model, cluster):
    config = compose_config([f"model={model}", f"cluster={cluster}"])
    assert find_problems(config) == []
    assert (config.rollout.group_size, config.rollout.prompts_per_step, config.algorithm.lr) == (8, 128, 1e-6)
    assert (config.algorithm.minibatches, config.mel.weight, config.mel.template.name) == (1, 1.0, "paper")
    nodes = int(cluster[0])
    assert make_plan(config).gpus <= 8 * nodes


@pytest.mark.parametrize("overrides", [["run.steps=7", "mel.weight=0.5"], ["run.name=größe"]])
def test_the_resolved_configuration_round_trips(overrides):
    config = compose_config(overrides)
    assert validate(yaml.safe_load(to_yaml(config))) == config


# -- a default stands in the schema alone

BASE = ("algorithm", "benchmark", "cluster", "data", "mel", "mel/template", "model")
BASE_FILES = [CONF_DIR / "config.yaml"] + [CONF_DIR / group / f"{o}.yaml" for group in BASE for o in options(group)]


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    elif path:
        yield path, values


@pytest.mark.parametrize("file", BASE_FILES, ids=lambda file: file.relative_to(CONF_DIR).as_posix())
def test_no_base_file_restates_a_default(file):
    """Presets and experiments may: they undo other choices."""
    values = yaml.safe_load(file.read_text()) or {}
    values.pop("defaults", None)
    group = file.parent.relative_to(CONF_DIR).parts
    schema = dict(leaves(defaults(SourceConfig) if group == ("benchmark",) else defaults()))
    prefix = () if group == ("benchmark",) else group
    restated = [path for path, value in leaves(values, prefix) if schema.get(path, ...) == value]
    assert restated == []


@pytest.mark.parametrize("file", sorted(CONF_DIR.rglob("*.yaml")), ids=lambda f: f.relative_to(CONF_DIR).as_posix())
def test_every_file_says_what_it_is(file):
    comments = [line for line in file.read_text().splitlines() if line.startswith("#") and "@package" not in line]
    assert comments


def test_the_schema_alone_is_the_embedded_default():
    composed = compose_config(["~experiment"])
    assert composed == Config(model=ModelConfig(path="embedded"), mel={"template": load_template("tiny")})


def test_interpolations_reach_keys_that_only_the_schema_states():
    plain = compose_config()
    assert plain.eval.max_tokens == plain.mel.replay_max_tokens == plain.rollout.max_tokens
    config = compose_config(["rollout.max_tokens=50", "mel.max_tokens=${rollout.prompts_per_step}"])
    assert (config.eval.max_tokens, config.mel.replay_max_tokens, config.mel.max_tokens) == (50, 50, 16)
    assert compose_config(["rollout.max_tokens=50", "eval.max_tokens=60"]).eval.max_tokens == 60


def test_one_name_has_one_meaning():
    assert not set(options("experiment")) & set(options("preset"))
    assert compose_config(["experiment=mel_paper"]) == compose_config(["experiment=paper_scale"])
    assert compose_config(["preset=mel_paper"]).algorithm.name == "mel_paper"


# -- `mel keys`


def test_every_key_has_a_sentence():
    for key in all_keys():
        assert key.sentence.endswith("."), key.path
        assert not {"beside", "behind"} & set(key.sentence.split()), key.path


def test_keys_text_holds_every_key_and_fits():
    text = keys_text()
    for key in all_keys():
        assert key.is_section or f" {key.path} " in text
    assert max(map(len, text.splitlines())) <= 110
    (line,) = [line for line in text.splitlines() if " cluster.rollout.memory_share " in line]
    assert line.split()[1:] == ["number", ">", "0", "and", "<=", "1", "default", "0.85"]
    assert "or null" in keys_text("algorithm.dual_clip")
    assert "required" in keys_text("model.path")


def test_keys_text_for_a_word():
    shown = keys_text("KL")
    for path in ("algorithm.kl.coefficient", "algorithm.kl.estimator", "algorithm.kl.where"):
        assert path in shown
    assert "One of: k1, k2, k3." in shown
    assert "run.steps" not in shown
    assert "cluster.rollout.kv_cache_mib" in keys_text("mib.")  # by its sentence
    assert "rollout.group_size" in keys_text("grup_size")
    assert keys_text("zzzz").startswith("No key has 'zzzz'")


# -- names with an implementation each

REGISTRIES = {
    "algorithm.advantage": ALGORITHMS,
    "algorithm.aggregation": AGGREGATIONS,
    "mel.pair_choice": PAIR_CHOICES,
    "cluster.weight_transfer": TRANSPORTS,
    "reward.extract": RULES,
}


@pytest.mark.parametrize("key", REGISTRIES)
def test_a_registry_line_is_all_the_configuration_needs(key, monkeypatch):
    value = "[{}]" if key == "reward.extract" else "{}"
    known = next(iter(REGISTRIES[key]))
    text = problems_of(f"{key}={value.format(known + 'x')}")
    assert "there is no such" in text
    assert f"Did you mean '{known}'?" in text
    assert all(name in text for name in REGISTRIES[key])
    assert "toy" not in keys_text(key)
    monkeypatch.setitem(REGISTRIES[key], "toy", object())
    assert compose_config([f"{key}={value.format('toy')}"])
    assert "toy" in keys_text(key)


class Toy:
    """Stands for an algorithm or a transport that finds fault with everything."""

    needs_group = True

    def problems(self, options: Any) -> Iterator[Problem]:
        yield Problem("toy", None, f"says the toy of {type(options).__name__}")


def test_an_algorithm_and_a_transport_bring_their_own_problems(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "toy", Toy())
    monkeypatch.setitem(TRANSPORTS, "toy", Toy())
    assert "the toy of AlgorithmConfig" in problems_of("algorithm.advantage=toy")
    assert "rollout.group_size=1: a group of one" in problems_of("algorithm.advantage=toy", "rollout.group_size=1")
    assert "the toy of ClusterConfig" in problems_of("cluster.weight_transfer=toy")


@pytest.mark.parametrize("cluster", [["cluster.nodes=2"], ["cluster=2x8", "cluster.weight_transfer=auto"]])
def test_the_automatic_transport_has_no_problems(cluster):
    assert find_problems(compose_config(cluster)) == []


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_mistyped_keys_are_met_with_did_you_mean(prefix):
    assert "Did you mean 'rollout.group_size'?" in problems_of(f"{prefix}rollout.grup_size=4")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["rollout.group_size=1"], "rollout.group_size=1: a group of one"),
        (["algorithm.minibatches=3"], "cannot be divided into 3"),
        (["rollout.max_tokens=500", "data.max_prompt_tokens=100"], "exceeds model.max_context=512"),
        (["rollout.max_tokens=600"], "no room for a prompt"),
        (["mel.min_correct_replays=2"], "there are only mel.replays=1"),
        (["algorithm=sft", "mel.enabled=true"], "there is nothing to contrast"),
        (["algorithm=sft", "rollout.group_size=8"], "a question has one solution"),
        (["algorithm.samples=dataset", "mel=off"], "Use algorithm=sft"),
        (["algorithm=sft", "driver.capacity=1"], "nothing to explore ahead"),
        (
            ["algorithm=sft", "mel=off", "rollout.group_size=1", "data=table", "data.train.path=/d"],
            "data.train.solution: the solutions are trained on, and no column is named",
        ),
        (["algorithm=sft", "algorithm.importance_cap=2"], "nothing to correct for"),
        (["algorithm=dapo", "mel.enabled=true", "mel.write=both"], "dynamic sampling throws all-wrong groups away"),
        (
            ["mel.lesson=shuffled", "mel.weight=0", "mel.credit=augment", "run.replay_order=x"],
            "which lessons are known",
        ),
        (["mel.lesson=shuffled", "mel.weight=0", "mel.credit=augment", "mel.retrieval.method=bm25"], "another text in"),
        (["mel.credit=hint", "mel.replay_max_tokens=20"], "Make it at least rollout.max_tokens"),
        (["rollout.resample_size=3"], "no group is sampled again"),
        (["mel.credit=teach"], "mel.credit=teach: it must be augment, hint, or a list of both"),
        (["mel.credit=[augment,teach]"], "it must be augment, hint, or a list of both"),
        (["mel.correction=ratio"], "no replay is trained, so there is nothing to correct"),
        (["mel.correction=capped", "mel.credit=hint"], "Set mel.credit=augment"),
        (["mel.contrast=wrong_lesson"], "no lesson gives a token credit"),
        (["mel.contrast=wrong_lesson", "mel.credit=hint"], "Raise mel.pairs_per_group"),
        (["mel.min_gain=0.5"], "Set mel.keep=gain"),
        (["mel.min_gain=1", "mel.keep=gain"], "mel.min_gain=1"),
        (
            ["mel.write=wrong", "mel.template.abstraction_from_answer=null"],
            "has no prompt for a group without a correct",
        ),
        (["mel.template.abstraction_from_answer='{{ correct }}'"], "Use only question, incorrect, answer"),
        (["mel.lesson=shuffled"], "Set mel.weight=0 and mel.credit=augment"),
        (["data.train.kind=rules", "data.train.band=0.3"], "the bands are 0.5, 0.1, 0.01"),
        (["data.train.split=unasked"], "only the world of rules has rules that training never asks"),
        (["data.train.phrasings=[3]"], "a problem has the phrasings 0, 1 and 2"),
        (["data.train.kind=rules", "data.train.rules=3001"], "data.train.rules=3001"),
        (["data.train.kind=rules", "data.train.path=/d"], "an embedded world has no file"),
        (["cluster.weight_transfer=nccl"], "NCCL needs GPUs"),
        (["model=nope"], "there is no such option"),
        (["model=tinny"], "Did you mean 'tiny'?"),
        (["algorithm.advantage=nope"], "there is no such advantage estimator; there are: group_standardised"),
        (["cluster.weight_transfer=mpi"], "there is no such transport; there are: auto, shm, gloo, nccl."),
        (["cluster.weight_transfer=nccl"], "NCCL needs GPUs"),
        (["cluster=1x1", "cluster.weight_transfer=nccl"], "NCCL does not connect two processes on one GPU"),
        (["cluster=1x1", "driver.capacity=1"], "cannot explore ahead"),
        (["cluster=1x1", "rollout.partial=true", "driver.publish=in_flight"], "keeps no unfinished sequence"),
        (["cluster=1x1", "cluster.policy.ranks=2"], "each engine shares its GPU with one rank"),
        (["cluster=1x8", "cluster.colocated=true", "cluster.rollout.tensor_parallel=2"], "has one GPU"),
        (["cluster=1x8", "cluster.colocated=true", "cluster.experience.engines=1"], "no GPU is left"),
        (["cluster.colocated=true"], "share the memory anyway"),
        (["cluster.policy.sequence_parallel=2"], "cannot be divided into groups of 2"),
        (["cluster.policy.sequence_parallel=2", "cluster.policy.ranks=2"], "share the tokens of one packed row"),
        (["cluster.policy.sequence_parallel=2", "cluster.policy.attention=eager"], "a mask over all tokens"),
        (["cluster.weight_transfer=shm", "cluster.nodes=2"], "shared memory does not reach 2 nodes"),
        (["eval.benchmarks.name=x"], "eval.benchmarks.name: there is no such key"),
        (["eval=3"], "this is a section"),
        (["run=3"], "this is a section"),
        (["model=3"], "there is no such option"),
        (["run.name=a,b"], "makes this several values"),
        (["eval.benchmarks=[aime23]"], "Did you mean 'aime2"),
        (["data=table"], "data.train.path: this key is required"),
        (["rollout.temperature=0"], "would be the same"),
        (["run.steps=0"], "greater than or equal to 1"),
        (["run.steps=many"], "valid integer"),
        (["nonsense"], "this is not an override"),
        (
            [
                "algorithm.surrogate=logprob",
                "algorithm.advantage=correct_only",
                "algorithm.dynamic_sampling.enabled=true",
            ],
            "which dynamic sampling throws away",
        ),
        (["algorithm.advantage=correct_only"], "NLL on correct trajectories"),
        (["algorithm=rft", "algorithm.kl.coefficient=0.1", "algorithm.kl.where=reward"], "correctness alone"),
        (["algorithm=gspo", "algorithm.aggregation=token_mean"], "long sequences would weigh more"),
        (["algorithm.dual_clip=1.1"], "must lie above 1 + clip_high = 1.2"),
        (["algorithm.denominator=sampled", "algorithm.importance_cap=2"], "would correct a second time"),
        (["algorithm=rft", "algorithm.denominator=sampled"], "the logprob surrogate has no ratio"),
        (["algorithm.importance_floor=0.5"], "without algorithm.importance_cap there are no importance weights"),
        (["algorithm.importance_mode=mask"], "without algorithm.importance_cap there are no importance weights"),
        (["algorithm.importance_level=sequence"], "without algorithm.importance_cap there are no importance weights"),
        (["algorithm.importance_cap=0.5"], "algorithm.importance_cap=0.5: samples of the policy itself"),
        (["algorithm.importance_floor=1.5", "algorithm.importance_cap=2"], "so all of them would be changed"),
        (["algorithm.importance_cap=inf"], "algorithm.importance_cap=inf: "),
        (["algorithm.lr=nan"], "algorithm.lr=nan: "),
        (["algorithm.importance_floor=2", "algorithm.importance_cap=2"], "must lie below algorithm.importance_cap=2"),
        (["mel.target=replay", "mel.sections=heuristics"], "a replay has no sections"),
        (["mel.weight=0"], "made and not learned"),
        (["algorithm=reinforce_pp", "rollout.group_size=1"], "a group of one is never mixed"),
        (["algorithm.name=a/b"], "should match pattern"),
        (["mel.template.replay='{{ questoin }}'"], "questoin"),
        (["mel.template.heuristic_pattern='('"], "not a regular expression"),
    ],
)
def test_each_problem_is_a_sentence(overrides, words):
    text = problems_of(*overrides)
    assert words in text
    assert text.rstrip().endswith((".", "?"))
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../x", "cannot contain '/'"),
        ("a/b", "cannot contain '/'"),
        (".", "cannot begin with '.'"),
        ("..", "cannot begin with '.'"),
        (".hidden", "cannot begin with '.'"),
        ("-x", "cannot begin with '-'"),
        ("", "must not be empty"),
        ("'  '", "must not be empty"),
        ("a\x07b", "control character"),
        ("'a\nb'", "control character"),
        ("x" * 101, "at most 100 characters"),
        ("語" * 90, "255 bytes"),
    ],
)
def test_a_run_name_that_is_no_folder_is_a_sentence(name, words):
    text = problems_of(f"run.name={name}")
    assert words in text
    assert text.startswith("run.name=")
    assert len(text.splitlines()) == 1
    assert text.isprintable()


@pytest.mark.parametrize("name", ["größe", "a b", "run-1.2_c", "x" * 100, "日本", "it's", "50%", "a#b", "ü\\", "a=b"])
def test_any_folder_name_is_a_run_name(name):
    config = compose_config([f"run.name={name}"])
    assert config.run.name == name
    assert find_problems(config) == []


def test_values_that_hydra_cannot_read_are_texts():
    assert compose_config(["data.prompt=Frage: {{ question }}?"]).data.prompt == "Frage: {{ question }}?"
    assert compose_config(["data.prompt={{ question }}!"]).data.prompt == "{{ question }}!"
    assert "valid integer" in problems_of("run.steps=zwölf")
    assert "there is no such option" in problems_of("model=größe")


@pytest.mark.parametrize("text", ["nonsense", "größe", "größe=3", "=3", "run steps=3", "run.steps=[1,2", "run.name='x"])
def test_nonsense_stays_nonsense(text):
    assert "this is not an override" in problems_of(text)


def test_a_stored_configuration_is_continued_with_single_keys_overridden(tmp_path):
    stored = tmp_path / "config.yaml"
    values = yaml.safe_load(to_yaml(compose_config(["run.steps=7", "experiment=mel_paper"])))
    del values["observe"]["console"]  # a key that came after that run
    stored.write_text(yaml.safe_dump(values))
    config = continued_config(stored, ["run.name=größe", "algorithm.lr=0.5"])
    assert (config.run.name, config.algorithm.lr, config.run.steps) == ("größe", 0.5, 7)
    assert config.observe.console == "auto"
    with pytest.raises(ConfigError, match="keeps its groups"):
        continued_config(stored, ["mel=off"])


def test_all_problems_are_listed_at_once():
    text = problems_of("rollout.group_size=1", "algorithm.minibatches=3", "cluster.weight_transfer=nccl")
    assert len(text.splitlines()) == 3


def test_resources():
    config = compose_config(["cluster.policy.ranks=3"])
    (problem,) = find_resource_problems(config, Machine(2, 0))
    assert "cluster.policy.ranks=3" in str(problem)
    assert find_resource_problems(config, Machine(4, 0)) == []
    big = compose_config(["model=qwen3_8b_base", "cluster=2x8"])
    assert "16 GPUs" in str(find_resource_problems(big, Machine(512, 8, is_cluster=True))[0])
    assert find_resource_problems(big, Machine(512, 16)) == []


@pytest.mark.parametrize(("mib", "is_refused"), [(64, True), (8192, False), (None, False)])
def test_shared_memory_of_a_container_that_is_too_small_for_gpus_is_named(mib, is_refused):
    machine = Machine(512, 16, shared_memory=None if mib is None else mib << 20)
    problems = find_resource_problems(compose_config(["model=qwen3_8b_base", "cluster=2x8"]), machine)
    assert bool(problems) == is_refused
    if is_refused:
        assert "/dev/shm, which has 64 MiB on this machine" in str(problems[0])
        assert "--shm-size" in str(problems[0])
    assert find_resource_problems(compose_config(), Machine(2, 0, shared_memory=1 << 20)) == []


def test_the_plan_names_every_pool_with_actors():
    plan = make_plan(compose_config())
    assert [pool.name for pool in plan.pools] == ["rollout", "verifier", "experience", "policy"]
    assert (plan.pool("rollout").actors, plan.pool("rollout").threads, plan.pool("policy").threads) == (2, 1, 2)
    assert "experience-engine" not in plan
    with pytest.raises(KeyError):
        plan.pool("experience-engine")

    overrides = ["model=qwen3_8b_base", "cluster=4x8", "cluster.rollout.tensor_parallel=2"]
    plan = make_plan(compose_config(overrides))
    engine = plan.pool("experience-engine")
    assert (engine.actors, engine.gpus, engine.threads, engine.cpus) == (2, 2, 2, 2.0)
    assert plan.gpus == 6 * 2 + 2 * 2 + 16 == 32
    assert plan.cpus == sum(pool.actors * pool.cpus for pool in plan.pools)
    assert "experience-engine" not in make_plan(compose_config([*overrides, "mel=off"]))


def test_disk_space():
    """Per checkpoint and weight: what is stored of it, in units of the weight file."""
    rest = 8 << 20

    def states(*overrides: str) -> int:
        config = compose_config(["checkpoint.keep=1", *overrides])
        return (disk_bytes(config, 1000) - rest - 1000) // (2 * 1000)

    assert states() == 3  # weights and two moments in float32
    assert states("model.dtype=bfloat16") == 6  # the same, twice as large as a weight file
    assert states("mel.combination=separate") == 5
    assert states("mel.reptile.every=4") == 4
    assert states("mel.combination=separate", "mel.reptile.every=4", "mel=off") == 3


def test_known_keys_hold_nested_ones():
    assert {"rollout.group_size", "cluster.policy.ranks", "mel.template.name", "data.train.path"} <= set(known_keys())


def test_templates_name_all_parts():
    for name in ("tiny", "paper"):
        fed = {field for section in load_template(name).sections for field in section.fields}
        assert fed == {"bifurcation", "critique", "heuristics"}


def test_learning_rate_schedules():
    config = compose_config(["algorithm.lr=1.0", "algorithm.warmup_steps=4", "algorithm.lr_schedule=linear"]).algorithm
    rates = [learning_rate(config, step, 10) for step in range(1, 11)]
    assert rates[0] == pytest.approx(0.25)
    assert rates[4] == pytest.approx(0.6)  # after four of ten steps
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    weights = compose_config(["mel.weight=2.0", "mel.weight_schedule=cosine"]).mel
    assert [experience_weight(weights, step, 4) for step in (1, 3)] == pytest.approx([2.0, 1.0])
    constant = compose_config(["algorithm.lr=0.5", "algorithm.warmup_steps=0"]).algorithm
    assert {learning_rate(constant, step, 10) for step in (1, 5, 10)} == {0.5}


def test_run_state_round_trips(tmp_path):
    state = RunState(7, 112, 6)
    state.write(tmp_path)
    assert RunState.read(tmp_path) == state


def test_engines_compile_where_they_can(monkeypatch):
    def problems(*words):
        return [str(one) for one in find_problems(compose_config(["cluster.rollout.compile=true", *words]))]

    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    monkeypatch.delenv("CXX", raising=False)
    assert problems() == []
    assert any("on GPU the engine compiles by itself" in one for one in problems("cluster=1x1"))
    monkeypatch.setenv("CXX", "none-such")
    assert any("there is no C++ compiler here" in one for one in problems())

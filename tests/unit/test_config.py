"""config/: every shipped YAML composes; wrong requests are met with sentences."""

import itertools

import pytest

from mel_ray.config.checks import find_problems, find_resource_problems
from mel_ray.config.load import compose_config, known_keys, to_yaml, validate
from mel_ray.config.machine import Machine
from mel_ray.config.plan import make_plan
from mel_ray.records.problems import ConfigError
from mel_ray.config.templates import CONF_DIR, load_template
from mel_ray.driver.state import DriverState
from mel_ray.policy.schedule import experience_weight, learning_rate


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
GROUPS = ("model", "data", "cluster", "algorithm", "mel", "mel/template", "experiment", "preset")
EVERY = [[f"{group}={option}"] for group in GROUPS for option in options(group)]  # fmt: skip


@pytest.mark.parametrize("overrides", EVERY, ids=lambda o: o[0])
def test_every_shipped_option_composes_and_checks(overrides):
    needs_path = overrides[0] in ("model=local", "data=table")
    config = compose_config([*overrides, *(LOCAL if needs_path else [])])
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


def test_the_resolved_configuration_round_trips():
    import yaml

    config = compose_config(["run.steps=7", "mel.weight=0.5"])
    assert validate(yaml.safe_load(to_yaml(config))) == config


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
        (["cluster.weight_transfer=nccl"], "NCCL needs GPUs"),
        (["model=nope"], "there is no such option"),
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
    assert rates[4] == pytest.approx(0.6)  # four of ten steps lie behind
    assert rates == [pytest.approx(r) for r in rates]
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    weights = compose_config(["mel.weight=2.0", "mel.weight_schedule=cosine"]).mel
    assert [experience_weight(weights, step, 4) for step in (1, 3)] == pytest.approx([2.0, 1.0])
    constant = compose_config(["algorithm.lr=0.5", "algorithm.warmup_steps=0"]).algorithm
    assert {learning_rate(constant, step, 10) for step in (1, 5, 10)} == {0.5}


def test_driver_state_round_trips(tmp_path):
    state = DriverState(7, 112, 6)
    state.write(tmp_path / "driver.json")
    assert DriverState.read(tmp_path / "driver.json") == state

"""config/memory_estimate.py: what `mel check` says of memory, held against figures that were measured or published."""

import json
import re

import pytest

from mel_ray.cli.mel import main
from mel_ray.config.load import compose_config
from mel_ray.config.memory_estimate import (
    CUDA_CONTEXT,
    GB,
    ModelSize,
    checkpoint_need,
    find_memory_problems,
    find_shadow_problems,
    kv_tokens,
    memory_text,
    node_need,
    rank_need,
)
from mel_ray.data.model_size import model_size
from tests.unit.builders import config_of

SHARE = re.compile(r"cluster\.rollout\.memory_share=0\.\d+$")
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "head_dim": 128,
         "num_key_value_heads": 8}  # fmt: skip
SHAPES = {
    "0.6B": (1024, 3072, 28, 16, True), "1.7B": (2048, 6144, 28, 16, True), "4B": (2560, 9728, 36, 32, True),
    "8B": (4096, 12288, 36, 32, False), "14B": (5120, 17408, 40, 40, False),
}  # fmt: skip


def folder_of(name, tmp_path):
    hidden, mlp, layers, heads, tied = SHAPES[name]
    sizes = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
             "num_attention_heads": heads, "tie_word_embeddings": tied}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(QWEN3 | sizes))
    return tmp_path


def paper(*overrides):
    return compose_config(["model=qwen3_8b_base", *overrides])


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    return {name: model_size(folder_of(name, tmp_path_factory.mktemp("model"))) for name in SHAPES}


@pytest.mark.parametrize(
    ("name", "parameters", "linear"),
    # The published numbers; by hand: q, k, v, o and the three of the MLP, inputs plus outputs, in every layer.
    [("0.6B", 596_049_920, 28 * (3072 + 2048 + 2048 + 3072 + 3 * 4096)),
     ("14B", 14_768_307_200, 40 * (10240 + 6144 + 6144 + 10240 + 3 * 22528))],
)  # fmt: skip
def test_sizes_come_from_the_config_alone(sizes, name, parameters, linear):
    size = sizes[name]
    assert (size.parameters, size.linear, size.vocabulary) == (parameters, linear, 151936)
    assert (size.kv_heads, size.head_size) == (8, 128)


# Peak of torch's allocator on one H200, one ZeRO-3 rank, bfloat16, checkpointing, microbatches of 16,384 tokens
# (docs/cluster.md); the CUDA context is not in it.
@pytest.mark.parametrize(("name", "gib"), [("0.6B", 14.8), ("1.7B", 34.9), ("4B", 75.2)])
def test_the_estimate_of_a_rank_agrees_with_what_was_measured(sizes, name, gib):
    overrides = ("cluster=1x8", "cluster.policy.ranks=1", "model.max_context=16384", "rollout.max_tokens=4096")
    estimate = rank_need(paper(*overrides), sizes[name]).total - CUDA_CONTEXT
    assert 0.98 < estimate / (gib * 2**30) < 1.08


def test_keys_and_values_fill_what_an_engine_has_left(sizes):
    # (0.85 x 80 GB - 16.4 GB of weights - 4 GB) over 2 x 36 layers x 8 heads x 128 x 2 bytes
    assert kv_tokens(paper("cluster=1x8"), sizes["8B"], 80 * GB) == pytest.approx(47.62e9 / 147456, rel=1e-3)
    assert kv_tokens(paper("cluster=1x8", "cluster.rollout.tensor_parallel=2"), sizes["8B"], 80 * GB) > 700_000


@pytest.mark.parametrize(("preset", "fits"), [("1x8", False), ("2x8", True), ("4x8", True)])
def test_14b_is_refused_where_a_rank_does_not_fit(sizes, preset, fits):
    problems = list(find_memory_problems(paper(f"cluster={preset}"), sizes["14B"], 80 * GB, None))
    assert (problems == []) == fits
    if not fits:
        (problem,) = problems
        assert str(problem).startswith("cluster.policy.ranks=4: a rank needs about 9")
        assert problem.remedy == (
            "use cluster.policy.ranks=5 cluster.rollout.engines=3 or set cluster.policy.offload=true"
        )


@pytest.mark.parametrize("change", ["cluster.policy.ranks=5", "cluster.policy.offload=true"])
def test_each_remedy_is_enough(sizes, change):
    assert list(find_memory_problems(paper("cluster=1x8", change), sizes["14B"], 80 * GB, None)) == []


@pytest.mark.parametrize("preset", ["1x8", "2x8", "4x8"])
@pytest.mark.parametrize("name", ["4B", "8B"])
def test_the_smaller_models_fit_every_preset(sizes, preset, name):
    assert list(find_memory_problems(paper(f"cluster={preset}"), sizes[name], 80 * GB, None)) == []


def small(*overrides):
    return compose_config(["model=local", "model.path=x", "cluster=1x1", *overrides])


@pytest.mark.parametrize(
    ("name", "gpu", "overrides", "words"),
    [
        ("0.6B", 24, (), None),
        ("1.7B", 24, (), "Set cluster.policy.offload=true"),
        ("1.7B", 24, ("cluster.policy.offload=true",), None),
        ("1.7B", 80, (), None),
        ("0.6B", 24, ("cluster.rollout.memory_share=0.8",), "the resting rank holds 15 of 24 GB"),
        ("8B", 24, ("cluster.policy.offload=true",), "Use more GPUs or a smaller model"),
    ],
)  # fmt: skip
def test_what_fits_one_gpu_that_engine_and_rank_take_in_turn(sizes, name, gpu, overrides, words):
    problems = [str(one) for one in find_memory_problems(small(*overrides), sizes[name], gpu * GB, None)]
    assert any(words in one for one in problems) if words else problems == []


@pytest.mark.parametrize("name", ["4B", "8B"])
@pytest.mark.parametrize("preset", ["1x8", "2x8"])
def test_the_presets_fit_in_turn_as_well(sizes, preset, name):
    config = paper(f"cluster={preset}", "cluster.colocated=true")
    assert config.cluster.policy.ranks == config.cluster.rollout.engines == config.cluster.nodes * 8
    assert list(find_memory_problems(config, sizes[name], 80 * GB, None)) == []


def test_an_engine_without_room_for_one_context_is_named(sizes):
    problems = list(find_memory_problems(paper("cluster=4x8"), sizes["14B"], 40 * GB, None))
    assert any("not for one context" in str(problem) for problem in problems)


def test_what_needs_less_is_estimated_to_need_less(sizes):
    base = rank_need(paper("cluster=2x8"), sizes["8B"])
    less = {
        "cluster.policy.offload=true": "moments",
        "cluster.policy.lora.rank=16": "moments",
        "cluster.policy.ranks=16": "weights",
        "model.max_context=8192 rollout.max_tokens=4096 mel.max_tokens=1024": "activations",
    }
    for overrides, part in less.items():
        changed = rank_need(paper("cluster=2x8", *overrides.split()), sizes["8B"])
        assert changed.total < base.total
        assert changed.parts.get(part, 0.0) < base.parts[part]
    more = rank_need(paper("cluster=2x8", "algorithm.kl.coefficient=0.1"), sizes["8B"])
    assert more.parts["reference"] == base.parts["weights"]


def test_a_checkpoint_holds_float32_weights_and_moments(sizes):
    assert checkpoint_need(paper("cluster=2x8"), sizes["8B"]).total == 12 * sizes["8B"].parameters
    lora = checkpoint_need(paper("cluster=2x8", "cluster.policy.lora.rank=16"), sizes["8B"])
    assert lora.total == 12 * 16 * sizes["8B"].linear


def test_host_memory_counts_what_is_offloaded(sizes):
    kept, offloaded = (
        node_need(paper("cluster=1x8", f"cluster.policy.offload={value}"), sizes["8B"]) for value in ("false", "true")
    )
    assert offloaded.total - kept.total == pytest.approx(16 * sizes["8B"].parameters)
    problems = find_memory_problems(paper("cluster=1x8", "cluster.policy.offload=true"), sizes["8B"], 80 * GB, 64 * GB)
    assert "a node needs about" in str(next(problems))


def test_host_memory_counts_what_is_copied(sizes):
    apart = node_need(paper("cluster=1x8"), sizes["8B"]).parts
    assert apart["copy of a checkpoint"] == 12 * sizes["8B"].parameters
    assert "weights on their way" not in apart  # they go by NCCL
    shared = node_need(paper("cluster=2x8", "cluster.colocated=true"), sizes["8B"]).parts
    assert shared["copy of a checkpoint"] == pytest.approx(6 * sizes["8B"].parameters)  # half of the ranks are there
    assert shared["weights on their way"] == 8 * 2 * sizes["8B"].parameters  # a copy an engine, over gloo
    on_cpu, offloaded = (
        node_need(config_of(f"cluster.policy.offload={value}"), sizes["0.6B"]).total for value in ("false", "true")
    )
    assert offloaded == pytest.approx(on_cpu, rel=0.1)  # it is the same memory


def test_a_state_in_memory_is_counted_and_refused_where_it_has_no_room(sizes):
    config, without = paper("cluster=1x8", "checkpoint.shadow=true"), paper("cluster=1x8")
    assert node_need(config, sizes["8B"]).parts["state in memory"] == 3 * 12 * sizes["8B"].parameters
    assert node_need(without, sizes["8B"]).parts["state in memory"] == 0
    (problem,) = find_shadow_problems(config, sizes["8B"], 100 * GB, "/dev/shm")
    assert str(problem).startswith(
        "checkpoint.shadow=True: two states of the policy have 196.6 GB and /dev/shm has 100.0"
    )
    assert list(find_shadow_problems(config, sizes["8B"], 200 * GB, "/dev/shm")) == []
    assert list(find_shadow_problems(without, sizes["8B"], 0.0, "/dev/shm")) == []


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ("cluster.policy.attention=eager", "attention scores"),
        ("cluster.policy.packing=packed", "attention mask"),
        ("cluster.policy.persistence_threshold=1000000000000", "weights"),
    ],
)
def test_what_takes_more_of_a_rank_is_counted(sizes, more, part):
    plain, larger = (rank_need(paper("cluster=1x8", *words), sizes["8B"]) for words in ((), (more,)))
    assert larger.parts[part] > plain.parts.get(part, 0.0) + 1 * GB


@pytest.mark.parametrize(
    ("wasteful", "words"),
    [
        ("cluster.policy.token_budget=1000000", "cluster.policy.token_budget=24576"),
        ("cluster.policy.gradient_checkpointing=false", "cluster.policy.gradient_checkpointing=true"),
        ("cluster.policy.logprob_chunk=1000000000", "cluster.policy.logprob_chunk=1024"),
    ],
)
def test_the_remedy_names_the_key_that_is_at_fault(sizes, wasteful, words):
    problem = next(find_memory_problems(paper("cluster=1x8", wasteful), sizes["8B"], 80 * GB, None))
    assert words in str(problem)
    changes = [word.strip(".") for word in str(problem).partition("Use ")[2].split()]
    assert list(find_memory_problems(paper("cluster=1x8", wasteful, *changes), sizes["8B"], 80 * GB, None)) == []


def test_an_engine_that_shares_its_gpu_is_told_which_share_is_enough(sizes):
    turn = ("cluster=1x8", "cluster.colocated=true", "cluster.rollout.tensor_parallel=1", "cluster.rollout.engines=8",
            "cluster.policy.ranks=8")  # fmt: skip
    words = [str(one) for one in find_memory_problems(paper(*turn), sizes["14B"], 80 * GB, None)]
    share = next(word for line in words for word in line.split() if SHARE.match(word))
    again = [str(one) for one in find_memory_problems(paper(*turn, share), sizes["14B"], 80 * GB, None)]
    assert not any("room for" in one for one in again)


def test_a_model_that_does_not_fit_this_machine_is_refused_on_cpu_too(sizes):
    (problem,) = find_memory_problems(config_of(), sizes["8B"], 0.0, 24 * GB)
    assert "and has 24" in str(problem)


def test_the_text_names_every_pool_and_the_disk(sizes):
    text = memory_text(paper("cluster=2x8"), sizes["8B"], 80 * GB)
    for words in ("8.19 billion parameters", "policy rank", "engine GPU", "node", "checkpoint", "tokens of keys"):
        assert words in text


def test_check_prints_the_estimate_of_a_model_whose_weights_are_not_there(capsys, tmp_path):
    folder = folder_of("14B", tmp_path)
    assert main(["check", "model=local", f"model.path={folder}", "cluster=1x8"]) == 2
    out = capsys.readouterr()
    assert "estimated memory in GB (14.77 billion parameters" in out.out
    assert "a rank needs about" in out.err
    assert isinstance(model_size(folder), ModelSize)

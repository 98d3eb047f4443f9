"""data/model_support.py: a model that the engine cannot run or the policy cannot train is found from its folder."""

import json
import subprocess
import sys

import pytest

from mel_ray.config.load import compose_config
from mel_ray.data import installed
from mel_ray.data.architecture import Architecture
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.model_support import support_problems
from tests.unit.model_folders import QWEN3, problems, write_model
from tests.unit.tokenizer_folders import byte_level


def test_a_model_that_can_run_has_no_problems(tmp_path):
    assert problems(write_model(tmp_path)) == ""
    config = compose_config([])
    assert support_problems(config, EMBEDDED, ChatTokenizer(EMBEDDED, config.model)) == []


KINDS = {
    "vision": ({"vision_config": {"depth": 2}}, "reads more than text (vision)"),
    "audio": ({"audio_config": {"depth": 2}}, "reads more than text (audio)"),
    "encoder-decoder": ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "is an encoder-decoder"),
    "said in its file": ({"is_encoder_decoder": True}, "is an encoder-decoder"),
    "code of its own": (
        {"architectures": ["OwnForCausalLM"], "model_type": "own", "auto_map": {"AutoConfig": "a.B"}},
        "OwnForCausalLM needs code from the model's folder",
    ),
    "unknown": ({"architectures": ["OwnForCausalLM"], "model_type": "own"}, "no causal language model of type 'own'"),
    "no type": ({"model_type": ...}, "no causal language model of type ''"),
    "masked": (
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        "BertForMaskedLM is not the causal language model of type 'bert', which is BertLMHeadModel",
    ),
    "no head": ({"architectures": ["Qwen3Model"]}, "is not the causal language model of type 'qwen3'"),
    "classifier": ({"architectures": ["Qwen3ForSequenceClassification"]}, "is not the causal language model"),
    "not in vLLM": ({"architectures": ["CodeGenForCausalLM"], "model_type": "codegen"}, "vLLM does not support"),
    "transformed head": (
        {"architectures": ["BertLMHeadModel"], "model_type": "bert"},
        "does not apply its output head",
    ),
    "capped by default": (
        {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"},
        "final_logit_softcapping=30",
    ),
    "capped": (
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "final_logit_softcapping": 20.0},
        "final_logit_softcapping=20",
    ),
    "scaled": (
        {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "logits_scaling": 8.0},
        "logits_scaling=8",
    ),
    "scaled by default": ({"architectures": ["CohereForCausalLM"], "model_type": "cohere"}, "logit_scale=0.0625"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_architecture_that_cannot_run_is_a_problem(tmp_path, kind):
    changes, why = KINDS[kind]
    found = problems(write_model(tmp_path, **changes))
    assert why in found
    assert found.count("model.path") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"},
        {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "final_logit_softcapping": None},
        {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "logits_scaling": 1.0},
        {"architectures": ["PhiForCausalLM"], "model_type": "phi"},  # vLLM runs it with Transformers' code
        {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"},
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 128, "n_head": 2, "hidden_size": ...,
         "num_attention_heads": ..., "head_dim": ...},
    ],
    ids=lambda changes: changes["model_type"],
)  # fmt: skip
def test_other_causal_language_models_can_run(tmp_path, changes):
    assert problems(write_model(tmp_path, **changes)) == ""


# -- heads


@pytest.mark.parametrize("size", [8, 16, 24, 48, 100, 512, 576])
def test_head_sizes_on_cpu_are_those_of_the_engine(tmp_path, size):
    attention = pytest.importorskip("vllm.v1.attention.backends.cpu_attn")
    supported = attention.CPUAttentionBackend.get_supported_head_sizes()
    found = problems(write_model(tmp_path, head_dim=size))
    assert (f"attention heads have size {size}" in found) == (size not in supported)
    assert "heads" not in problems(tmp_path, "cluster=1x8")


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"head_dim": ..., "hidden_size": 64}, 128),  # the default of Qwen3's class
        ({"head_dim": None, "hidden_size": 64}, 16),
        ({"model_type": "llama", "head_dim": ..., "hidden_size": 64}, 16),
        ({"model_type": "gpt2", "n_embd": 96, "n_head": 2, "head_dim": ..., "num_attention_heads": ...,
          "hidden_size": ...}, 48),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, None),
        ({"text_config": QWEN3 | {"head_dim": 80}}, 80),
    ],
)  # fmt: skip
def test_the_head_size_is_what_the_class_makes_of_the_file(tmp_path, changes, size):
    assert Architecture.of(write_model(tmp_path, **changes)).head_size == size


@pytest.mark.parametrize(("gpus", "fits"), [(1, True), (2, True), (4, True), (3, False), (8, False)])
def test_heads_must_be_divisible_among_the_gpus_of_an_engine(tmp_path, gpus, fits):
    found = problems(write_model(tmp_path), "cluster=1x8", f"cluster.rollout.tensor_parallel={gpus}")
    assert ("cannot be divided among" in found) != fits


def test_an_attention_that_the_policys_model_lacks(tmp_path):
    model = write_model(tmp_path, architectures=["BloomForCausalLM"], model_type="bloom")
    assert "cluster.policy.attention=sdpa: Transformers' BloomForCausalLM does not support it" in problems(model)
    assert problems(model, "cluster.policy.attention=eager") == ""
    flash = "cluster.policy.attention=flash_attention_2"
    qwen = write_model(tmp_path, head_dim=320)
    assert "model.dtype is float32" in problems(qwen, "cluster=1x8", flash, "model.dtype=float32")
    assert "at most 256" in problems(qwen, "cluster=1x8", flash, "model.dtype=bfloat16")


# -- weights, vocabulary, positions


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised (gptq)"),
        ({"quantization_config": {"bits": 4}}, "quantised (of an unknown kind)"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "quantised (compressed-tensors)"),
        ({"torch_dtype": "float8_e4m3fn"}, "data type 'float8_e4m3fn'"),
        ({"dtype": "int8"}, "data type 'int8'"),
        ({"dtype": "torch.bfloat16"}, ""),
        ({"torch_dtype": "float16"}, ""),
    ],
)
def test_weights_that_cannot_be_trained(tmp_path, changes, why):
    found = problems(write_model(tmp_path, **changes))
    assert why in found if why else found == ""


def test_a_vocabulary_larger_than_the_embedding(tmp_path):
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size()
    assert problems(write_model(tmp_path, tokenizer, vocab_size=size)) == ""
    assert "1 token beyond the" in problems(write_model(tmp_path, tokenizer, vocab_size=size - 1))
    tokenizer.add_tokens(["<new>"])
    assert f"'<new>' ({size})" in problems(write_model(tmp_path, tokenizer, vocab_size=size))


def test_a_special_token_beyond_the_embedding_matters_where_it_is_used(tmp_path):
    """As in Gemma 3, whose tokenizer knows an image token that its text model has no row for."""
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["<image>"])
    folder = write_model(tmp_path, tokenizer, vocab_size=size)
    assert problems(folder) == ""
    assert f"'<image>' ({size})" in problems(folder, 'model.chat_template="<image>{{ messages[0].content }}"')
    assert f"'<image>' ({size})" in problems(folder, 'model.stop_tokens=["<image>"]')


def test_tokens_of_the_configuration_alone_count(tmp_path):
    folder, size = write_model(tmp_path), byte_level().get_vocab_size()
    token = {"content": "<late>", "special": False, "normalized": False, "lstrip": False, "rstrip": False}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"] = {str(size): token}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert f"'<late>' ({size})" in problems(write_config(folder, vocab_size=size))
    assert problems(write_config(folder, vocab_size=size + 1)) == ""


def write_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({}, 512),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, 1024),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}}, 512),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 512),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0},
                              "sliding_attention": {"rope_type": "default"}}}, 1024),
        ({"max_position_embeddings": ...}, 32768),  # the default of Qwen3's class
        ({"model_type": "gpt2", "max_position_embeddings": ..., "n_positions": 128}, 128),
        ({"model_type": "bloom", "max_position_embeddings": ...}, None),
    ],
)  # fmt: skip
def test_the_longest_sequence_follows_rope_scaling(tmp_path, changes, positions):
    model = Architecture.of(write_model(tmp_path, **changes))
    assert model.positions == positions


def test_a_context_beyond_the_positions_is_a_problem(tmp_path):
    folder = write_model(tmp_path)
    assert "the model knows only 512 positions" in problems(folder, "model.max_context=513")
    assert problems(folder, "model.max_context=512") == ""


# -- what is read from the installed libraries


def test_the_facts_equal_those_of_the_libraries():
    transformers = pytest.importorskip("transformers")
    auto = transformers.models.auto.modeling_auto
    assert dict(installed.causal_lm_classes()) == dict(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    for model_type in ("qwen3", "gemma2", "llama", "gpt2", "gemma3_text", "mistral"):
        config = transformers.models.auto.configuration_auto.CONFIG_MAPPING[model_type]()
        found = installed.class_defaults(model_type)
        for key in ("vocab_size", "head_dim", "final_logit_softcapping"):
            if found.get(key) is not None:
                assert found[key] == getattr(config, key)
    assert {"Qwen3ForCausalLM", "LlamaForCausalLM", "PhiForCausalLM"} <= installed.engine_architectures()


def test_reading_them_imports_neither():
    code = (
        "import sys\nfrom mel_ray.data import installed\n"
        "assert installed.engine_architectures() and installed.cpu_head_sizes() and installed.class_defaults('qwen3')\n"
        "print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_library_that_is_not_there_refuses_nothing(tmp_path, monkeypatch):
    for name in ("_table", "cpu_head_sizes", "class_defaults"):
        getattr(installed, name).cache_clear()
    monkeypatch.setattr(installed, "_source", lambda package, file: None)
    installed._tree.cache_clear()
    try:
        assert problems(write_model(tmp_path, head_dim=16, architectures=["OwnForCausalLM"])) == ""
    finally:
        for name in ("_table", "_tree", "cpu_head_sizes", "class_defaults"):
            getattr(installed, name).cache_clear()

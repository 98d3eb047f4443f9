"""Whether the engine can run a model and the policy train it: known from its folder, before anything starts."""

from collections.abc import Callable, Iterator
from pathlib import Path

from mel_ray.config.schema import Config
from mel_ray.data import installed
from mel_ray.data.architecture import Architecture
from mel_ray.data.chat import ChatTokenizer
from mel_ray.records.problem import Problem, counted

DTYPES = ("float32", "float16", "bfloat16", "float64", "float", "half", "auto")
_CAUSAL = "give a decoder-only causal language model"

Check = Callable[[Config, Architecture], Iterator[Problem]]


def support_problems(config: Config, folder: Path, tokenizer: ChatTokenizer) -> list[Problem]:
    """What of the model in `folder` cannot run, or not with this configuration."""
    architecture = Architecture.of(folder)
    checks: tuple[Check, ...] = (
        _engine, _kind, _weights, _head_size, _attention, _tensor_parallel, _sequence_parallel, _positions,
    )  # fmt: skip
    found = [problem for check in checks for problem in check(config, architecture)]
    return [*found, *_vocabulary(config, architecture, tokenizer), *stop_problems(config, tokenizer)]


def _engine(config: Config, model: Architecture) -> Iterator[Problem]:
    """vLLM's build decides where it runs, whatever it is asked for."""
    built, asked = installed.engine_device(), config.cluster.device
    if built is None or built == asked:
        return
    if asked == "cpu":
        why = "the vLLM that is installed is the CUDA build, which would take a GPU"
        remedy = "use a preset for GPUs, e.g. cluster=1x8, or install the CPU build: MEL_RAY_EXTRA=cpu make setup"
    else:
        why = "the vLLM that is installed is the CPU build"
        remedy = "install the CUDA build: MEL_RAY_EXTRA=gpu make setup"
    yield Problem("cluster.device", asked, why, remedy)


def _kind(config: Config, model: Architecture) -> Iterator[Problem]:
    """The first reason for which it is no causal language model that both can load."""
    classes, listed = installed.causal_lm_classes(), installed.engine_architectures()
    own_class = classes.get(model.model_type) if classes else model.name
    path, name = config.model.path, model.name
    if parts := model.parts_beyond_text:
        yield Problem("model.path", path, f"{name} reads more than text ({', '.join(parts)})", "give a text-only model")
    elif model.get("is_encoder_decoder"):
        yield Problem("model.path", path, f"{name} is an encoder-decoder", _CAUSAL)
    elif own_class is None and model.config.get("auto_map"):
        why = f"{name} needs code from the model's folder, which is not run"
        yield Problem("model.path", path, why, "give a model that Transformers has an implementation of")
    elif own_class is None:
        why = f"Transformers has no causal language model of type '{model.model_type}' ({name})"
        yield Problem("model.path", path, why, _CAUSAL)
    elif name not in own_class:
        shown = own_class if isinstance(own_class, str) else " or ".join(own_class)
        why = f"{name} is not the causal language model of type '{model.model_type}', which is {shown}"
        yield Problem("model.path", path, why, "give the folder of such a model, with its output head")
    elif listed and name not in listed and not installed.engine_runs_through_transformers(model.model_type):
        yield Problem("model.path", path, f"vLLM does not support the architecture {name}", "give another model")
    elif not installed.applies_head_to_hidden_states(model.model_type, name):
        why = f"{name} does not apply its output head to the last hidden state, as the policy does"
        yield Problem("model.path", path, why, _CAUSAL)
    elif changed := model.changed_logits:
        why = f"{name} changes its logits after the output head ({', '.join(changed)}), which the policy does not"
        yield Problem("model.path", path, why, "give a model whose logits are the output head's")


def _weights(config: Config, model: Architecture) -> Iterator[Problem]:
    if method := model.quantisation:
        why = f"its weights are quantised ({method}), and such weights cannot be trained"
        yield Problem("model.path", config.model.path, why, "give the model in float32, float16 or bfloat16")
    elif model.dtype not in (None, *DTYPES):
        why = f"its config.json names the data type '{model.dtype}', which is not supported"
        yield Problem("model.path", config.model.path, why, "give the model in float32, float16 or bfloat16")


def _head_size(config: Config, model: Architecture) -> Iterator[Problem]:
    """On GPUs vLLM has a backend for every size."""
    sizes, size = installed.cpu_head_sizes(), model.head_size
    if config.cluster.device == "cpu" and sizes and size and size not in sizes:
        why = f"its attention heads have size {size}; on CPU vLLM supports {', '.join(map(str, sizes))}"
        yield Problem("model.path", config.model.path, why, "give another model, or run on GPUs")


def _attention(config: Config, model: Architecture) -> Iterator[Problem]:
    name, source = config.cluster.policy.attention, installed.modeling_source(model.model_type)
    if source is None:
        return
    kinds = {"sdpa": ("_supports_sdpa",), "flash_attention_2": ("_supports_flash_attn", "_supports_flash_attn_2")}
    flags = kinds.get(name, ())
    if flags and not any(f"{flag} = True" in source for flag in flags):
        why = f"Transformers' {model.name} does not support it"
        yield Problem("cluster.policy.attention", name, why, "use eager")
    elif name == "flash_attention_2" and config.model.dtype == "float32":
        why = "it computes in 16 bits, and model.dtype is float32"
        yield Problem("cluster.policy.attention", name, why, "use sdpa, or model.dtype=bfloat16")
    elif name == "flash_attention_2" and (size := model.head_size) and (size > 256 or size % 8):
        why = f"its heads must have a size of at most 256 that 8 divides, and the model's have {size}"
        yield Problem("cluster.policy.attention", name, why, "use sdpa")


def _tensor_parallel(config: Config, model: Architecture) -> Iterator[Problem]:
    gpus, heads, kv_heads = config.cluster.rollout.tensor_parallel, model.heads, model.kv_heads
    if heads and heads % gpus:
        why = f"the model's {heads} attention heads cannot be divided among {counted(gpus, 'GPU')}"
    elif kv_heads and max(kv_heads, gpus) % min(kv_heads, gpus):
        why = f"the model's {kv_heads} key-value heads cannot be divided among {counted(gpus, 'GPU')}"
    else:
        return
    yield Problem("cluster.rollout.tensor_parallel", gpus, why, "use a divisor of both, e.g. 1")


def _sequence_parallel(config: Config, model: Architecture) -> Iterator[Problem]:
    """Around attention the ranks exchange tokens for heads."""
    ranks, heads, kv_heads = config.cluster.policy.sequence_parallel, model.heads, model.kv_heads
    if heads and heads % ranks:
        why = f"the model's {heads} attention heads cannot be divided among {ranks} ranks"
    elif kv_heads and max(kv_heads, ranks) % min(kv_heads, ranks):
        why = f"the model's {kv_heads} key-value heads cannot be divided among {ranks} ranks"
    else:
        return
    yield Problem("cluster.policy.sequence_parallel", ranks, why, "use a divisor of both, e.g. 1")


def _positions(config: Config, model: Architecture) -> Iterator[Problem]:
    longest, positions = config.model.max_context, model.positions
    if positions and longest > positions:
        why = f"the model knows only {positions} positions"
        yield Problem("model.max_context", longest, why, "lower it, and the max_tokens keys")


def _vocabulary(config: Config, model: Architecture, tokenizer: ChatTokenizer) -> Iterator[Problem]:
    rows = model.vocabulary
    beyond = sorted(token for token in tokenizer.usable_ids() if rows and token >= rows)
    if beyond:
        shown = ", ".join(f"{tokenizer.token_text(token)!r} ({token})" for token in beyond[:3])
        why = f"its tokenizer has {counted(len(beyond), 'token')} beyond the {rows} rows of the embedding: {shown}"
        yield Problem("model.path", config.model.path, why, "resize the model's embedding, or give its own tokenizer")


def stop_problems(config: Config, tokenizer: ChatTokenizer) -> list[Problem]:
    """A completion that ends as the template ends turns must be over."""
    end = tokenizer.turn_end
    if end is None or tokenizer.token_id(end) in tokenizer.stop_ids:
        return []
    listed = ", ".join(f'"{text}"' for text in (*config.model.stop_tokens, end))
    why = f"the chat template ends an assistant's turn with {end}, which is not a stop token: answers would run on"
    return [Problem("model.stop_tokens", list(config.model.stop_tokens), why, f"set model.stop_tokens=[{listed}]")]

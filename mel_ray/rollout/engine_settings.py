"""What an engine is told at its start: light, without vLLM."""

from dataclasses import dataclass
from pathlib import Path

from mel_ray.config.schema import Config
from mel_ray.weights.registry import transport_of


@dataclass(frozen=True, slots=True)
class EngineSettings:
    model: str
    dtype: str
    max_context: int
    device: str
    tensor_parallel: int
    max_sequences: int
    memory_share: float
    kv_cache_mib: int
    in_process: bool
    transport: str
    seed: int

    @classmethod
    def of(cls, config: Config, model_folder: Path) -> "EngineSettings":
        pool = config.cluster.rollout
        return cls(
            model=str(model_folder),
            dtype=config.model.dtype,
            max_context=config.model.max_context,
            device=config.cluster.device,
            tensor_parallel=pool.tensor_parallel,
            max_sequences=pool.max_sequences,
            memory_share=pool.memory_share,
            kv_cache_mib=pool.kv_cache_mib,
            in_process=pool.in_process,
            transport=transport_of(config.cluster),
            seed=config.run.seed,
        )

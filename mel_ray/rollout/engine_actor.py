"""One engine as a Ray actor: prompts in, groups out; weights replaced between steps."""

from pathlib import Path
from typing import Any

from mel_ray.actors.process import redirect_output
from mel_ray.config.schema import ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.records.row import Row, rows_of_group
from mel_ray.records.trajectory import Group, Prompt, Sampling
from mel_ray.rollout.engine_settings import EngineSettings
from mel_ray.rollout.vllm_engine import VllmEngine


class EngineActor:
    """One vLLM engine with the tokenizer that turns its tokens into text."""

    def __init__(self, settings: EngineSettings, model: ModelConfig, log: Path | None) -> None:
        redirect_output(log)
        tokenizer = ChatTokenizer(settings.model, model)
        self._engine = VllmEngine(settings, tokenizer.decode, tokenizer.stop_ids)

    async def ready(self) -> dict[str, Any]:
        return self._engine.describe()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Group, tuple[Row, ...]]:
        """Y ~ pi(. | x): the group for the object store, and its rows for the driver."""
        group = Group(prompt, await self._engine.sample(prompt.token_ids, sampling))
        return group, rows_of_group(group)

    async def connect_weights(self, info: dict[str, Any]) -> None:
        await self._engine.connect_weights(info)

    async def disconnect_weights(self) -> None:
        await self._engine.disconnect_weights()

    async def begin_update(self) -> None:
        await self._engine.begin_update()

    async def receive(self, info: dict[str, Any]) -> None:
        await self._engine.receive(info)

    async def finish_update(self, version: int) -> str:
        return await self._engine.finish_update(version)

    async def take_busy_seconds(self) -> float:
        return self._engine.take_busy_seconds()

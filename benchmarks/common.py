"""What the benchmarks share: local Ray with the pools of a configuration."""

import json
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mel_ray.config.load import compose_config
from mel_ray.config.schema import Config
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.prepare import Prepared, prepare
from mel_ray.driver.loop import Loop
from mel_ray.driver.state import RunState
from mel_ray.driver.wiring import Pools, connected_to_ray, make_loop
from mel_ray.records.evaluation import Answered
from mel_ray.records.ports import Archive
from mel_ray.records.reports import EvalReport
from mel_ray.records.row import Row


class NoArchive:
    """Nothing is written while we measure."""

    async def record(self, step: int, rows: Sequence[Row], version: int = 0) -> None:
        return None


class NoCheckpoints:
    """Nothing is saved either."""

    async def save(self, state: RunState, again: bool = False) -> None:
        return None

    async def finish(self) -> None:
        return None

    def evaluated(self, report: EvalReport) -> bool:
        return False


class NoJournals:
    """Answers of an evaluation are neither kept nor known."""

    def open(self, benchmark: str, step: int) -> "NoJournals":
        return self

    def find(self, question_id: str, temperature: float, count: int) -> Answered | None:
        return None

    async def add(self, judged: Sequence[Row], temperature: float) -> None:
        return None

    async def close(self) -> None:
        return None


@asynccontextmanager
async def running_pools(overrides: Sequence[str]) -> AsyncIterator[tuple[Config, Prepared, Pools]]:
    """Pools for the overrides, ready and with their first weights published."""
    config = compose_config(overrides)
    prepared = prepare(config)
    with connected_to_ray(config):
        pools = Pools(config, prepared.model_folder, Path("/tmp/mel_ray_benchmark_logs"))
        await pools.ready()
        await pools.publisher.publish(0)
        yield config, prepared, pools


def loop_for(
    config: Config, prepared: Prepared, pools: Pools, state: RunState | None = None, archive: Archive | None = None
) -> Loop:
    return make_loop(config, pools, prepared.prompts.prompts, archive or NoArchive(), state)


def long_context_model(folder: Path, end_scale: float) -> Path:
    """The embedded model, told that it may go on for 1024 tokens; its end-of-turn embedding scaled down makes it
    forget to stop now and then, which gives completions a long tail."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(EMBEDDED, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 1024}))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][settings["eos_token_id"]] *= end_scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


async def renew_experience(pools: Pools, config: Config) -> None:
    """Go on with other options of the meta-experience loop, on the same engines."""
    pools.experience.kill()
    pools.experience = pools.experience_pool(config)
    await pools.experience.ready()

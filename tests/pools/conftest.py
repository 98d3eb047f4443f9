"""One Ray for all pool tests, with a folder and ports of its own; pools are built from the real configuration."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable

import pytest

from mel_ray.config.load import compose_config
from mel_ray.data.model_folder import locate_model
from mel_ray.driver.wiring import Pools, SamplingPools


@pytest.fixture(scope="session")
def ray_session():
    import ray

    folder = tempfile.mkdtemp(prefix="mel_ray_test_", dir="/tmp")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             object_store_memory=256 << 20, _temp_dir=folder)  # fmt: skip
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run_pools(ray_session, tmp_path):
    """Start pools for some overrides, run an async test body on them, and end their actors."""

    def run(body: Callable, *overrides: str, kind: type[SamplingPools] = Pools):
        config = compose_config(overrides)

        async def main():
            pools = kind(config, locate_model(config.model.path), tmp_path / "logs")
            try:
                await pools.ready()
                return await body(config, pools)
            finally:
                pools.kill()

        return asyncio.run(main())

    return run

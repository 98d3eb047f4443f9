"""New weights under running requests, on real vLLM with both hosts: every token agrees with the weights it names."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mel_ray.actors.handles import Handle, PoolError
from mel_ray.actors.process import CPU_ENGINE_ENV, ENGINE_ENV, runtime_env
from mel_ray.config.load import compose_config
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.records.question import Question, Truth
from mel_ray.records.reports import EngineClock
from mel_ray.records.trajectory import Prompt, Sampling, Trajectory
from mel_ray.rollout.engine_pool import Engine, EngineActor
from mel_ray.rollout.vllm_engine import EngineSettings
from mel_ray.weights.parameters import ParameterMeta
from mel_ray.weights.publisher import WeightPublisher
from mel_ray.weights.sender import Meeting, make_sender

TOLERANCE = 1e-4  # nats, float32
RUNNING = 8  # sequences that the engine runs at once
LENGTH = 400  # tokens of a long sequence
SHORT = ([5, 6, 7], Sampling((0,), 1.0, 12))
HOSTS = pytest.mark.parametrize("host", ["in_process", "async"], indirect=True)
Weights = dict[str, torch.Tensor]


class BareActor(EngineActor):
    """An engine whose sequences end at their token limit, and whose counts can be asked for."""

    def __init__(self, settings: EngineSettings, model, log) -> None:
        super().__init__(settings, model, log)
        host, self._engine._stop_ids = self._engine._host, []
        request = host.request

        async def endless(request_id, prompt, params):
            params.ignore_eos = True
            return await request(request_id, prompt, params)

        host.request = endless

    async def running(self) -> int:
        return self._engine.running

    async def take_counts(self) -> EngineClock:
        return self._engine.take_counts()


class Source:
    """The policy's end of a transport; `weights` are what it sends next."""

    def __init__(self) -> None:
        self.weights = embedded()

    async def address(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    async def open_sender(self, transport: str, address: str, port: int, world: int, delta: bool) -> None:
        metas = [ParameterMeta(name, "float32", tuple(tensor.shape)) for name, tensor in self.weights.items()]
        self.sender = make_sender(transport, metas, Meeting(address, port, world), delta)

    async def update_info(self) -> dict:
        return self.sender.update_info()

    async def send(self) -> str:
        return self.sender.send(self.weights.items())

    async def close_sender(self) -> None:
        self.sender.close()


class WatchedEngine(Engine):
    """Runs `meanwhile` in the middle of an update; `keep_kv` is how the update ends."""

    meanwhile: Callable | None = None
    keep_kv = False

    async def receive(self, info) -> None:
        if self.meanwhile:
            await self.meanwhile()
        await super().receive(info)

    async def finish_update(self, version, keep_kv=False) -> str:
        return await super().finish_update(version, self.keep_kv)


class Bench:
    """One engine and the publisher that gives it weights; versions count up over all tests."""

    def __init__(self, ray, in_process: bool, log) -> None:
        words = [f"cluster.rollout.in_process={in_process}", f"cluster.rollout.max_sequences={RUNNING}"]
        config = compose_config([*words, "cluster.weight_transfer=shm"])
        environment = runtime_env(ENGINE_ENV, CPU_ENGINE_ENV)
        actor = ray.remote(BareActor).options(num_cpus=1, max_concurrency=1000, runtime_env=environment)
        settings = EngineSettings.of(config, EMBEDDED)
        self.handle: Handle[BareActor] = Handle("engine", actor.remote(settings, config.model, log), log)
        self.engine, self.source = WatchedEngine(self.handle, config.cluster.deadlines), Source()
        self.publisher = WeightPublisher(self.source, SimpleNamespace(engines=[self.engine]), "shm", 1)
        self.versions = count(1)

    async def give(self, weights: Weights, keep_kv: bool = False) -> int:
        """A whole update; the version that it was given."""
        self.source.weights, self.engine.keep_kv = weights, keep_kv
        version = next(self.versions)
        await self.publisher.publish(version)
        return version

    async def sample(self, prompt: Sequence[int], how: Sampling) -> tuple[Trajectory, ...]:
        group, _ = await self.handle.ask(EngineActor.generate, 120, "", Prompt(Question("q", Truth("1")), prompt), how)
        return group.trajectories

    def submit(self, prompts: Sequence[Sequence[int]], temperature: float = 1.0, length: int = LENGTH):
        """Sequences that go on while the test does something else, one per prompt."""
        hows = [Sampling((seed,), temperature, length) for seed in range(len(prompts))]
        return asyncio.gather(*(self.sample(prompt, how) for prompt, how in zip(prompts, hows, strict=True)))

    async def start(self, prompts: Sequence[Sequence[int]], temperature: float = 1.0, length: int = LENGTH):
        """The same, and the engine is paused in their middle."""
        await self.engine.pause()
        long = self.submit(prompts, temperature, length)
        await self.until_running(len(prompts))
        await self.go_on()
        return long

    async def go_on(self) -> None:
        """Run the paused engine for as long as a short sequence takes, and pause it again."""
        others = await self.handle.ask(BareActor.running, 10)
        short = asyncio.create_task(self.sample(*SHORT))
        await self.until_running(others + 1)
        await self.engine.resume()
        await short
        await self.engine.pause()

    async def until_running(self, sequences: int) -> None:
        while await self.handle.ask(BareActor.running, 10) < sequences:
            await asyncio.sleep(0.01)

    async def counts(self) -> EngineClock:
        return await self.handle.ask(BareActor.take_counts, 10)


@pytest.fixture(scope="module")
def host(request, ray_session, tmp_path_factory):
    bench = Bench(ray_session, request.param == "in_process", tmp_path_factory.mktemp("logs") / "engine.log")
    asyncio.run(bench.publisher.connect())
    yield bench
    asyncio.run(bench.source.close_sender())
    bench.handle.kill()


@pytest.fixture
def run(host):
    """Run an async test body on an engine that has the embedded weights under a new version."""

    def run(body: Callable) -> None:
        async def main() -> None:
            await host.engine.pause()
            version = await host.give(embedded())
            await host.engine.resume()
            await host.counts()
            await body(version)
            assert await host.handle.ask(BareActor.running, 10) == 0

        asyncio.run(main())

    return run


def embedded() -> Weights:
    return load_file(EMBEDDED / "model.safetensors")


def perturbed(seed: int) -> Weights:
    """Weights that are as far from the embedded ones as many updates lead."""
    generator = torch.Generator().manual_seed(seed)
    weights = embedded()
    return {name: w + 0.1 * w.std() * torch.randn(w.shape, generator=generator) for name, w in weights.items()}


def prompts(number: int, tokens: int = 40) -> list[list[int]]:
    return np.random.default_rng(number).integers(10, 700, (number, tokens)).tolist()


@cache
def transformers_model() -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)


def reference(weights: Weights, prompt: Sequence[int], trajectory: Trajectory) -> np.ndarray:
    """Logprobs of the trajectory's tokens by Transformers, float32: [tokens]."""
    model = transformers_model()
    model.load_state_dict(weights, strict=False)
    ids = torch.tensor([*prompt, *trajectory.token_ids.tolist()])[None]
    with torch.no_grad():
        full = torch.log_softmax(model(ids).logits[0, :-1], -1)
    return full.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0].numpy()


def differences(named: dict[int, Weights], prompt: Sequence[int], trajectory: Trajectory) -> np.ndarray:
    """Between each token's logprob and the reference's under the version that the token names: [tokens]."""
    versions = trajectory.versions
    expected = np.zeros(len(versions), np.float32)
    for version in set(versions.tolist()):
        expected = np.where(versions == version, reference(named[version], prompt, trajectory), expected)
    return np.abs(trajectory.logprobs - expected)


def boundary(trajectory: Trajectory) -> int:
    """Tokens of the first version."""
    return int((trajectory.versions == trajectory.versions[0]).sum())


@HOSTS
@pytest.mark.parametrize("temperature", [1.0, 0.0], ids=["seeded", "greedy"])
def test_each_token_agrees_with_the_weights_it_names(host, run, temperature):
    async def body(first):
        named, asked, misnamed = {first: embedded()}, prompts(4), []
        long = await host.start(asked, temperature)
        named[await host.give(perturbed(1))] = perturbed(1)
        await host.go_on()
        named[await host.give(perturbed(2))] = perturbed(2)
        await host.engine.resume()
        for prompt, (trajectory,) in zip(asked, await long, strict=True):
            versions = trajectory.versions
            assert len(versions) == LENGTH
            assert (np.diff(versions) >= 0).all()
            assert sorted(set(versions.tolist())) == sorted(named)
            assert differences(named, prompt, trajectory).max() < TOLERANCE
            late = replace(trajectory, versions=np.concatenate([versions[:1], versions[:-1]]))
            misnamed += differences(named, prompt, late)[late.versions != versions].tolist()
        # Were the boundary one token late, the difference would show.
        assert len(misnamed) == 8
        assert max(misnamed) > 100 * TOLERANCE

    run(body)


@HOSTS
def test_kept_keys_serve_the_requests_that_run_and_no_new_one(host, run):
    async def body(first):
        shared, weights = prompts(1, 300)[0], perturbed(3)  # longer than a block of keys
        long = await host.start([shared], length=200)
        named = {first: embedded(), await host.give(weights, keep_kv=True): weights}
        await host.engine.resume()
        (new,) = await host.sample(shared, Sampling((7,), 1.0, 16))
        ((kept,),) = await long
        wrong = differences(named, shared, kept)
        assert sorted(set(kept.versions.tolist())) == sorted(named)
        assert wrong[: boundary(kept)].max() < TOLERANCE
        assert wrong[boundary(kept) :].max() > 100 * TOLERANCE
        assert differences(named, shared, new).max() < TOLERANCE
        assert (await host.counts()).recomputed_tokens == 0

    run(body)


@HOSTS
@pytest.mark.parametrize("temperature", [1.0, 0.0], ids=["seeded", "greedy"])
def test_the_same_weights_again_change_no_token(host, run, temperature):
    async def body(first):
        asked = prompts(6)
        undisturbed = await host.submit(asked, temperature)
        assert {first} == {version for (trajectory,) in undisturbed for version in trajectory.versions.tolist()}
        long = await host.start(asked, temperature)
        await host.give(embedded())
        await host.engine.resume()
        for (before,), (after,) in zip(undisturbed, await long, strict=True):
            assert len(set(after.versions.tolist())) == 2
            assert before.token_ids.tolist() == after.token_ids.tolist()
            assert np.abs(before.logprobs - after.logprobs).max() < TOLERANCE

    run(body)


@HOSTS
def test_requests_that_wait_begin_with_the_new_weights(host, run):
    async def body(first):
        asked, weights = prompts(RUNNING + 6), perturbed(4)
        await host.engine.pause()
        short = asyncio.create_task(host.sample(*SHORT))
        await host.until_running(1)
        long = host.submit(asked)
        await host.until_running(1 + len(asked))
        await host.engine.resume()
        await short
        await host.engine.pause()
        named = {first: embedded(), await host.give(weights): weights}
        await host.engine.resume()
        done = [trajectory for (trajectory,) in await long]
        assert {len(set(trajectory.versions.tolist())) for trajectory in done} == {1, 2}
        waited = [trajectory for trajectory in done if trajectory.versions[0] != first]
        assert len(waited) >= len(asked) - RUNNING
        for prompt, trajectory in zip(asked, done, strict=True):
            assert differences(named, prompt, trajectory).max() < TOLERANCE

    run(body)


@HOSTS
def test_a_paused_engine_takes_requests_and_serves_none(host, run):
    async def body(first):
        await host.engine.pause()
        await host.engine.pause()  # once more changes nothing
        weights, asked = perturbed(5), prompts(3)
        long = host.submit(asked)
        await host.until_running(len(asked))
        second = await host.give(embedded())
        third = await host.give(weights)
        assert not long.done()
        await host.engine.resume()
        await host.engine.resume()
        assert second < third
        for prompt, (trajectory,) in zip(asked, await long, strict=True):
            assert set(trajectory.versions.tolist()) == {third}
            assert differences({third: weights}, prompt, trajectory).max() < TOLERANCE
        assert (await host.counts()).recomputed_tokens == 0

    run(body)


@HOSTS
def test_the_clock_counts_tokens_and_what_an_update_costs(host, run):
    async def body(first):
        asked = prompts(5)
        long = await host.start(asked)
        await host.give(embedded())
        await host.engine.resume()
        done = [trajectory for (trajectory,) in await long]
        clock = await host.counts()
        assert clock.sampled_tokens == sum(len(trajectory.token_ids) for trajectory in done) + SHORT[1].max_tokens
        assert clock.recomputed_tokens == sum(len(asked[0]) + boundary(trajectory) - 1 for trajectory in done)
        assert clock.busy_seconds > 0
        assert clock.paused_seconds > 0
        idle = await host.counts()
        assert idle == EngineClock(0.0, 0.0, 0, 0)
        await host.engine.pause()
        long = host.submit(asked[:1], length=4)
        await host.until_running(1)
        paused = await host.counts()
        assert paused.busy_seconds == 0.0
        assert paused.paused_seconds > 0
        await host.engine.resume()
        await long

    run(body)


@HOSTS
def test_wrong_use_is_a_sentence(host, run):
    async def body(first):
        long = host.submit(prompts(2))
        await host.until_running(2)
        with pytest.raises(PoolError, match=r"2 requests are running; pause the engine before an update"):
            await host.engine.begin_update()
        await long

        async def misuse() -> None:
            with pytest.raises(PoolError, match=r"weights are being replaced; pause the engine first"):
                await host.sample(*SHORT)
            with pytest.raises(PoolError, match=r"weights are being replaced; finish the update before"):
                await host.engine.resume()
            misused.append(True)

        misused: list[bool] = []
        host.engine.meanwhile = misuse
        await host.give(embedded())
        assert misused
        host.engine.meanwhile = None

    run(body)

"""The four pools for real: Ray, vLLM, ZeRO-3 and Math-Verify on the embedded model."""

import asyncio
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mel_ray.config.load import compose_config
from mel_ray.config.plan import make_plan
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.prepare import prepare
from mel_ray.data.world import corpus, problems
from mel_ray.driver.wiring import SamplingPools
from mel_ray.policy.batch import shard
from mel_ray.records.experience import DraftState
from mel_ray.records.question import Question, Truth
from mel_ray.records.reports import UpdateReport
from mel_ray.records.row import Row, rows_of_group
from mel_ray.records.step import OptimizerStep, TrainSettings
from mel_ray.records.trajectory import FinishReason, Group, Prompt, Sampling, Trajectory
from mel_ray.records.verdict import Outcome, Verdict
from mel_ray.rewards.verifier_pool import VerifierPool
from mel_ray.rollout.engine_pool import Engine
from tests.pools.processes import processes_using, sockets, threads
from tests.pools.rewards import SECONDS

TOLERANCE = 2e-4  # nats, float32; measured maxima are near 1e-5
SMALL = ("rollout.prompts_per_step=4", "cluster.policy.threads=1", "cluster.rollout.engines=1")


def questions(config, count: int) -> list[Prompt]:
    tokenizer = ChatTokenizer(EMBEDDED, config.model)
    return [
        Prompt(
            Question(p.question, Truth(p.answer), question_id=str(n)), tokenizer.prompt_ids(f"Problem: {p.question}")
        )
        for n, p in enumerate(problems.questions("heldout", count, 5))
    ]


def sampling(*seeds: int, max_tokens: int = 64, temperature: float = 1.0) -> Sampling:
    return Sampling(seeds, temperature, max_tokens)


async def generate_all(pools, prompts: Sequence[Prompt], how: Sampling) -> list[tuple[Row, ...]]:
    return await asyncio.gather(*(pools.rollout.generate(prompt, how) for prompt in prompts))


async def record_of(rows: Sequence[Row]) -> Group:
    return await rows[0].ref


def group_of(prompt: Prompt, texts: Sequence[str], tokenizer: ChatTokenizer) -> Group:
    """A group as if the policy had sampled these texts."""
    tokens = [tokenizer.encode(text) for text in texts]
    return Group(
        prompt,
        tuple(
            Trajectory.of_one_turn(ids, [-0.1] * len(ids), text, FinishReason.STOP, 0, 0)
            for ids, text in zip(tokens, texts, strict=True)
        ),
    )


def stored_rows(ray, group: Group) -> tuple[Row, ...]:
    ref = ray.put(group)
    return tuple(replace(row, ref=ref) for row in rows_of_group(group))


def transformers_logprobs(folder: Path, group: Group) -> list[np.ndarray]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    result = []
    for trajectory in group.trajectories:
        ids = torch.tensor(np.concatenate([group.prompt.token_ids, trajectory.token_ids]).astype("int64"))[None]
        with torch.no_grad():
            full = torch.log_softmax(model(ids).logits[0, :-1], -1)
        chosen = full.gather(-1, ids[0, 1:, None])[:, 0]
        result.append(chosen[len(group.prompt.token_ids) - 1 :].numpy())
    return result


def untied_copy(folder: Path) -> Path:
    """The embedded model with an output head of its own."""
    shutil.copytree(EMBEDDED, folder)
    weights = load_file(EMBEDDED / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    return folder


async def train_once(pools, groups: Sequence[Sequence[Row]], lr: float) -> UpdateReport:
    """One update that makes every trajectory of the groups more likely."""
    rows = [replace(row, credit=1.0, pg_weight=0.001) for group in groups for row in group]
    step = OptimizerStep(shard(rows, pools.policy.shards, 512))
    return await pools.policy.train((step,), TrainSettings(lr))


@pytest.mark.parametrize(
    ("tied", "overrides"),
    [
        (True, ["cluster.rollout.in_process=true", "cluster.weight_transfer=shm"]),
        (True, ["cluster.weight_transfer=shm", "cluster.policy.lora.rank=4"]),
        (False, ["cluster.rollout.in_process=true", "cluster.weight_transfer=gloo", "cluster.policy.ranks=2"]),
        (True, ["cluster.rollout.in_process=false", "cluster.weight_transfer=gloo", "cluster.rollout.engines=2"]),
    ],
    ids=["tied-shm", "adapters-shm", "untied-gloo-2-ranks", "async-gloo-2-engines"],
)
def test_engines_serve_exactly_the_policys_weights(run_pools, tmp_path, tied, overrides):
    folder = EMBEDDED if tied else untied_copy(tmp_path / "untied")

    async def body(config, pools):
        prompts, how = questions(config, 4), sampling(1, 2, 3, 4)
        before = await generate_all(pools, prompts, how)
        await pools.publisher.publish(1)
        first = pools.publisher.checksum
        metrics = (await train_once(pools, before, lr=0.05)).metrics
        assert metrics["policy/grad_norm"] > 0
        assert metrics["mismatch/max"] < TOLERANCE
        await pools.publisher.publish(2)
        assert pools.publisher.checksum != first
        await pools.policy.export(tmp_path / "export")
        for rows in await generate_all(pools, prompts, how):
            assert {row.versions for row in rows} == {(2, 2)}
            group = await record_of(rows)
            for trajectory, expected in zip(group.trajectories, transformers_logprobs(tmp_path / "export", group)):
                assert set(trajectory.versions) == {2}
                assert np.abs(trajectory.logprobs - expected).max() < TOLERANCE

    run_pools(body, f"model.path={folder}", *SMALL, *overrides)


def test_a_learning_rate_of_zero_changes_nothing_in_ten_steps(run_pools):
    async def body(config, pools):
        prompts, greedy = questions(config, 6), sampling(0, max_tokens=96, temperature=0.0)

        async def texts() -> list[str]:
            groups = [await record_of(rows) for rows in await generate_all(pools, prompts, greedy)]
            return [group.trajectories[0].text for group in groups]

        await pools.publisher.publish(0)
        before, checksum = await texts(), pools.publisher.checksum
        for step in range(1, 11):
            sampled = await generate_all(pools, prompts, sampling(step, step + 100, max_tokens=96))
            metrics = (await train_once(pools, sampled, lr=0.0)).metrics
            assert metrics["mismatch/max"] < TOLERANCE
            await pools.publisher.publish(step)
            assert pools.publisher.checksum == checksum
        assert await texts() == before

    run_pools(body, *SMALL)


def test_samples_depend_on_their_seed_and_on_nothing_else(run_pools):
    async def body(config, pools):
        first, *others = questions(config, 5)
        alone = await record_of(await pools.rollout.generate(first, sampling(*range(8))))
        crowd = await asyncio.gather(
            generate_all(pools, others, sampling(*range(6))),
            pools.rollout.generate(first, sampling(*reversed(range(8)))),
        )
        together = await record_of(crowd[-1])
        assert [t.text for t in alone.trajectories] == [t.text for t in together.trajectories][::-1]
        assert len({trajectory.text for trajectory in alone.trajectories}) > 1
        (short,) = await pools.rollout.generate(first, sampling(1, max_tokens=2))
        assert short.finish_reason == "length"
        assert short.tokens == short.trained_tokens == 2

    run_pools(body, *SMALL, kind=SamplingPools)


def test_an_engine_is_handed_at_most_twice_the_sequences_it_runs(run_pools, monkeypatch):
    class Watched(Engine):
        most = 0

        def __setattr__(self, name, value):
            if name == "running":
                Watched.most = max(Watched.most, value)
            super().__setattr__(name, value)

    monkeypatch.setattr("mel_ray.rollout.engine_pool.Engine", Watched)

    async def body(config, pools):
        groups = await generate_all(pools, questions(config, 6), sampling(*range(8), max_tokens=32))
        assert [len(rows) for rows in groups] == [8] * 6
        assert Watched.most == 16
        # A call for more than that is served too, by an engine that has nothing else to do.
        (large,) = await generate_all(pools, questions(config, 1), sampling(*range(20), max_tokens=8))
        assert len(large) == Watched.most == 20

    run_pools(body, *SMALL, "cluster.rollout.max_sequences=8", kind=SamplingPools)


def test_a_groups_deadline_does_not_count_its_time_in_the_queue(ray_session):
    groups, seconds = 40, 3.0
    assert SECONDS < seconds < groups * SECONDS / 2
    config = compose_config(["reward.function=tests.pools.rewards:slow", f"cluster.deadlines.judge={seconds}"])
    tokenizer = ChatTokenizer(EMBEDDED, config.model)
    rows = [stored_rows(ray_session, group_of(prompt, ["a", "b"], tokenizer)) for prompt in questions(config, groups)]

    async def body():
        pool = VerifierPool(make_plan(config).pool("verifier"), config.cluster, config.reward, None)
        try:
            await pool.ready()
            return await asyncio.gather(*map(pool.judge, rows))
        finally:
            pool.kill()

    judged = asyncio.run(body())
    assert [row.verdict.outcome for group in judged for row in group] == [Outcome.CORRECT] * 2 * groups


def test_a_custom_reward_reads_the_datasets_columns(run_pools, tmp_path):
    levels = {"What is 1 + 1?": "easy", "What is 2 + 3?": "hard", "What is 4 + 4?": "easy", "What is 7 - 1?": "hard"}
    table = [{"question": question, "answer": "2", "level": level} for question, level in levels.items()]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))

    async def body(config, pools):
        prompts = prepare(config).prompts.prompts
        assert {prompt.question.text: prompt.question.columns["level"] for prompt in prompts} == levels
        for rows in await generate_all(pools, prompts, sampling(1, 2, max_tokens=8)):
            for row in await pools.rewards.judge(rows):
                level = levels[(await record_of(rows)).prompt.question.text]
                assert row.verdict.reason == level
                assert row.verdict.is_correct == (level == "easy")

    words = ["data=table", f"data.train.path={tmp_path}/table.jsonl", "data.max_prompt_tokens=128",
             "reward.function=tests.pools.rewards:by_column"]  # fmt: skip
    run_pools(body, *SMALL, *words, kind=SamplingPools)


@pytest.mark.parametrize("engines", [0, 1], ids=["borrowed", "own"])
def test_a_mixed_group_becomes_a_proven_experience(run_pools, ray_session, engines):
    async def body(config, pools):
        problem = problems.questions("heldout", 24, 1)[0]
        texts = [corpus.write_solution(Random(0), problem, is_right, is_right, 0.0) for is_right in (True, False)]
        tokenizer = ChatTokenizer(EMBEDDED, config.model)
        prompt = Prompt(Question(problem.question, Truth(problem.answer)), tokenizer.prompt_ids("Problem: x"))
        rows = stored_rows(ray_session, group_of(prompt, texts, tokenizer))
        judged = await pools.rewards.judge(rows)
        assert [row.verdict.outcome for row in judged] == [Outcome.CORRECT, Outcome.WRONG]
        drafts = [draft for step in range(1, 9) for draft in await pools.experience.abstract(judged, step)]
        parsed = [draft for draft in drafts if draft.state is DraftState.PARSED]
        assert len(parsed) >= 4  # the base model writes nine of ten well-formed
        assert all((draft.fate is None) == (draft in parsed) for draft in drafts)
        record = (await parsed[0].ref)[parsed[0].index]
        assert record.correct_text == texts[0]
        assert record.experience.heuristics
        replays = [await pools.rewards.judge(await pools.experience.replay(draft, 1)) for draft in parsed]
        assert all(len(rows) == config.mel.replays for rows in replays)
        assert all(row.verdict for rows in replays for row in rows)
        again, first = [(await pools.experience.abstract(judged, 1))[0] for _ in range(2)]
        assert again.digest == first.digest != ""

    run_pools(body, *SMALL, f"cluster.experience.engines={engines}")


def test_a_context_that_does_not_fit_is_skipped_and_counted(run_pools, ray_session):
    async def body(config, pools):
        trajectory = Trajectory.of_one_turn([1], [-0.1], "word " * 300, FinishReason.STOP, 0, 0)
        rows = stored_rows(ray_session, Group(Prompt(Question("q", Truth("1")), [1, 2]), (trajectory, trajectory)))
        outcomes = (Outcome.CORRECT, Outcome.WRONG)
        judged = [replace(row, verdict=Verdict(outcome)) for row, outcome in zip(rows, outcomes, strict=True)]
        (draft,) = await pools.experience.abstract(judged, 1)
        assert draft.state is DraftState.CONTEXT_TOO_LONG
        assert draft.fate == "context_too_long"
        assert draft.tokens == 0

    run_pools(body, *SMALL)


def test_an_engine_that_dies_is_named_with_its_log_and_its_work_is_done_by_another(run_pools):
    """With the weights that were published last, and the same tokens."""

    async def body(config, pools):
        told = []
        pools.incidents.listen(told.append)
        prompts, how = questions(config, 3), sampling(1, 2, max_tokens=16)
        await train_once(pools, await generate_all(pools, prompts, how), lr=0.05)
        await pools.publisher.publish(1)
        before = [await record_of(rows) for rows in await generate_all(pools, prompts, how)]
        lost = pools.engines.engines[0]
        lost.handle.kill()
        after = [await record_of(rows) for rows in await generate_all(pools, prompts, how)]
        assert [one.kind for one in told] == ["lost", "waiting", "healed"]
        assert re.search(r"rollout of question \d: its process died.*rollout-0\.log", told[0].text, re.DOTALL)
        assert pools.engines.engines[0] is not lost
        for one, other in zip(before, after, strict=True):
            for mine, theirs in zip(one.trajectories, other.trajectories, strict=True):
                assert mine.text == theirs.text
                assert set(theirs.versions) == {1}
                assert np.array_equal(mine.logprobs, theirs.logprobs)
        assert pools.incidents.take().asked_again == 6
        await pools.publisher.publish(2)  # over a connection with everybody again

    run_pools(body, *SMALL)


def test_judges_and_authors_that_die_are_replaced_and_what_they_had_is_asked_again(run_pools):
    async def body(config, pools):
        rows = (await generate_all(pools, questions(config, 1), sampling(*range(4))))[0]
        verdicts = [row.verdict for row in await pools.rewards.judge(rows)]
        pools.rewards.members.all[0].kill()
        assert [row.verdict for row in await pools.rewards.judge(rows)] == verdicts
        halves = ("correct" if row.index % 2 else "wrong" for row in rows)
        mixed = [replace(row, verdict=Verdict(Outcome(half))) for row, half in zip(rows, halves, strict=True)]
        drafts = await pools.experience.abstract(mixed, 1)
        pools.experience.members.all[0].kill()
        assert [replace(row, ref=None) for row in await pools.experience.abstract(mixed, 1)] == [
            replace(row, ref=None) for row in drafts
        ]
        losses = pools.incidents.take()
        assert (losses.restarts, losses.quarantined) == (2, 0)
        assert losses.asked_again == 4 + config.mel.pairs_per_group

    run_pools(body, *SMALL)


def damage_once(engine: Engine) -> None:
    """The next weights that the engine receives seem damaged."""

    async def damaged(version: int, keep_kv: bool) -> str:
        del engine.finish_update
        await engine.finish_update(version, keep_kv)
        return "0" * 24

    engine.finish_update = damaged


def note_connections(engine: Engine, noted: list[str]) -> None:
    """Write down when the engine's end of the transport is closed and opened."""
    for name in ("disconnect_weights", "connect_weights"):

        async def call(*arguments, name=name):
            noted.append(name)
            return await getattr(Engine, name)(engine, *arguments)

        setattr(engine, name, call)


@pytest.mark.parametrize(("transport", "count"), [("shm", 1), ("gloo", 2)])
def test_damaged_weights_are_noticed_and_the_engine_is_replaced(run_pools, tmp_path, transport, count):
    """Also: the transport is closed on both ends before it is opened again, so that nothing is left of the old one."""

    async def body(config, pools):
        noted: list[str] = []
        await pools.publisher.publish(1)
        healthy, lasting = pools.engines.engines[0], processes_using(tmp_path / "logs/policy-0.log")
        if count > 1:
            note_connections(healthy, noted)
            lasting += processes_using(tmp_path / "logs/rollout-0.log")
        before = [(sockets(process), threads(process)) for process in lasting]
        for version in (2, 3):
            damaged = pools.engines.engines[-1]
            damage_once(damaged)
            await pools.publisher.publish(version)
            assert damaged not in pools.engines.engines
            while len(pools.engines.engines) < count:
                await asyncio.sleep(0.1)
        await pools.publisher.publish(3)
        if count > 1:
            assert pools.engines.engines[0] is healthy
            assert noted == ["disconnect_weights", "connect_weights"] * 2
        for process, (had_sockets, had_threads) in zip(lasting, before, strict=True):
            # A gloo group left open twice is 6 sockets and 6 threads more at least.
            assert sockets(process) <= had_sockets + 2
            assert threads(process) <= had_threads + 2
        prompt, how = questions(config, 1)[0], sampling(1, max_tokens=8)
        served = await asyncio.gather(*(pools.rollout.generate(prompt, how) for _ in range(count)))
        assert {row.versions for rows in served for row in rows} == {(3, 3)}

    words = [f"cluster.weight_transfer={transport}", f"cluster.rollout.engines={count}"]
    run_pools(body, *SMALL, *words)

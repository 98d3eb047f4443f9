"""The four pools for real: Ray, vLLM, ZeRO-3 and Math-Verify on the embedded model."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.world import corpus, problems
from mel_ray.actors.waiting import PoolError
from mel_ray.records import (
    Group,
    GroupVerdict,
    Outcome,
    Prompt,
    Sampling,
    SequenceKind,
    SequenceSpec,
    Trajectory,
    Verdict,
)
from mel_ray.records.exploration import GroupTicket
from mel_ray.records.update import LossSettings, OptimizerStep, Update
from mel_ray.policy.batch import shard

TOLERANCE = 2e-4  # nats, float32; measured maxima are near 1e-5
SMALL = ("rollout.prompts_per_step=4", "cluster.policy.threads=1", "cluster.rollout.engines=1")


def questions(config, count: int) -> list[Prompt]:
    tokenizer = ChatTokenizer(EMBEDDED, config.model)
    return [
        Prompt(str(n), p.question, p.answer, tokenizer.prompt_ids(f"Problem: {p.question}"))
        for n, p in enumerate(problems.questions("heldout", count, 5))
    ]


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
    import json
    import shutil

    shutil.copytree(EMBEDDED, folder)
    weights = load_file(EMBEDDED / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    return folder


async def train_once(pools, groups: list[GroupTicket], lr: float) -> dict[str, float]:
    """One update that makes every trajectory of the groups more likely."""
    specs = [
        SequenceSpec(SequenceKind.TRAJECTORY, group.ref, i, group.facts.prompt_tokens, length, 1.0, 0.001, 0.0)
        for group in groups
        for i, length in enumerate(group.facts.lengths)
    ]
    step = OptimizerStep(shard(specs, pools.policy.ranks, 512))
    return dict((await pools.policy.train(Update((step,), lr, LossSettings()))).metrics)


@pytest.mark.parametrize(
    ("tied", "overrides"),
    [
        (True, ["cluster.rollout.in_process=true", "cluster.weight_transfer=shm"]),
        (False, ["cluster.rollout.in_process=true", "cluster.weight_transfer=gloo", "cluster.policy.ranks=2"]),
        (True, ["cluster.rollout.in_process=false", "cluster.weight_transfer=gloo", "cluster.rollout.engines=2"]),
    ],
    ids=["tied-shm", "untied-gloo-2-ranks", "async-gloo-2-engines"],
)
def test_engines_serve_exactly_the_policys_weights(run_pools, ray_session, tmp_path, tied, overrides):
    folder = EMBEDDED if tied else untied_copy(tmp_path / "untied")

    async def body(config, pools):
        prompts = questions(config, 4)
        sampling = Sampling((1, 2, 3, 4), 1.0, 64)
        before = await asyncio.gather(*(pools.rollout.generate(prompt, sampling) for prompt in prompts))
        await pools.policy.publish(1)
        first = pools.policy.checksum
        metrics = await train_once(pools, before, lr=0.05)
        assert metrics["policy/grad_norm"] > 0
        assert metrics["mismatch/max"] < TOLERANCE
        await pools.policy.publish(2)
        assert pools.policy.checksum != first
        await pools.policy.export(tmp_path / "export")
        after = await asyncio.gather(*(pools.rollout.generate(prompt, sampling) for prompt in prompts))
        for ticket in after:
            group: Group = await ticket.ref
            assert {trajectory.weight_version for trajectory in group.trajectories} == {2}
            for trajectory, expected in zip(group.trajectories, transformers_logprobs(tmp_path / "export", group)):
                assert np.abs(trajectory.logprobs - expected).max() < TOLERANCE

    run_pools(body, f"model.path={folder}", *SMALL, *overrides)


def test_a_learning_rate_of_zero_changes_nothing_in_ten_steps(run_pools):
    async def body(config, pools):
        prompts = questions(config, 6)
        greedy = Sampling((0,), 0.0, 96)

        async def texts() -> list[str]:
            tickets = await asyncio.gather(*(pools.rollout.generate(prompt, greedy) for prompt in prompts))
            return [(await ticket.ref).trajectories[0].text for ticket in tickets]

        await pools.policy.publish(0)
        before, checksum = await texts(), pools.policy.checksum
        for step in range(1, 11):
            sampled = await asyncio.gather(
                *(pools.rollout.generate(prompt, Sampling((step, step + 100), 1.0, 96)) for prompt in prompts)
            )
            metrics = await train_once(pools, sampled, lr=0.0)
            assert metrics["mismatch/max"] < TOLERANCE
            await pools.policy.publish(step)
            assert pools.policy.checksum == checksum
        assert await texts() == before

    run_pools(body, *SMALL)


def test_samples_depend_on_their_seed_and_on_nothing_else(run_pools):
    async def body(config, pools):
        first, *others = questions(config, 5)
        alone = await (await pools.rollout.generate(first, Sampling(tuple(range(8)), 1.0, 64))).ref
        crowd = await asyncio.gather(
            *(pools.rollout.generate(prompt, Sampling(tuple(range(6)), 1.0, 64)) for prompt in others),
            pools.rollout.generate(first, Sampling(tuple(reversed(range(8))), 1.0, 64)),
        )
        together = await crowd[-1].ref
        assert [t.text for t in alone.trajectories] == [t.text for t in together.trajectories][::-1]
        assert len({trajectory.text for trajectory in alone.trajectories}) > 1
        short = await pools.rollout.generate(first, Sampling((1,), 1.0, 2))
        assert short.facts.finish_reasons == ("length",)
        assert short.facts.lengths == (2,)

    run_pools(body, *SMALL)


@pytest.mark.parametrize("engines", [0, 1], ids=["borrowed", "own"])
def test_a_mixed_group_becomes_a_proven_experience(run_pools, ray_session, engines):
    async def body(config, pools):
        rng_problem = problems.questions("heldout", 24, 1)[0]
        from random import Random

        texts = [corpus.write_solution(Random(0), rng_problem, is_right, is_right, 0.0) for is_right in (True, False)]
        tokenizer = ChatTokenizer(EMBEDDED, config.model)
        prompt = Prompt("x", rng_problem.question, rng_problem.answer, tokenizer.prompt_ids("Problem: x"))
        group = Group(
            prompt,
            tuple(
                Trajectory(tokenizer.encode(text), [-0.1] * len(tokenizer.encode(text)), text, "stop", 0, 0)
                for text in texts
            ),
        )
        ticket = GroupTicket(ray_session.put(group), group.facts())
        verdict = await pools.verifier.judge(ticket)
        assert [one.outcome for one in verdict.verdicts] == [Outcome.CORRECT, Outcome.WRONG]
        parsed = []
        for step in range(1, 9):
            for draft in await pools.experience.abstract(ticket, verdict, step):
                if draft.facts.state == "parsed":
                    parsed.append(draft)
        assert len(parsed) >= 4  # the base model writes nine of ten well-formed
        record = (await parsed[0].ref)[0]
        assert record.correct_text == texts[0]
        assert record.experience.heuristics
        replays = [await pools.experience.replay(draft, 1) for draft in parsed]
        judged = [await pools.verifier.judge(replay.group) for replay in replays]
        assert all(len(one.verdicts) == config.mel.replays for one in judged)
        again = await pools.experience.abstract(ticket, verdict, 1)
        first = await pools.experience.abstract(ticket, verdict, 1)
        assert (await again[0].ref)[0].written.trajectories[0].text == (await first[0].ref)[0].written.trajectories[
            0
        ].text

    run_pools(body, *SMALL, f"cluster.experience.engines={engines}")


def test_a_context_that_does_not_fit_is_skipped_and_counted(run_pools, ray_session):
    async def body(config, pools):
        long = "word " * 300
        trajectory = Trajectory([1], [-0.1], long, "stop", 0, 0)
        group = Group(Prompt("x", "q", "1", [1, 2]), (trajectory, trajectory))
        verdict = GroupVerdict((Verdict(Outcome.CORRECT), Verdict(Outcome.WRONG)))
        (draft,) = await pools.experience.abstract(GroupTicket(ray_session.put(group), group.facts()), verdict, 1)
        assert draft.facts.state == "context_too_long"
        assert draft.facts.completion_tokens == 0

    run_pools(body, *SMALL)


def test_an_engine_that_dies_is_named_with_its_log(run_pools, ray_session):
    async def body(config, pools):
        ray_session.kill(pools.engines.engines[0].actor)
        with pytest.raises(PoolError, match=r"rollout of question 0 on rollout-0: its process died.*rollout-0\.log"):
            await pools.rollout.generate(questions(config, 1)[0], Sampling((1,), 1.0, 8))

    run_pools(body, *SMALL)


def test_damaged_weights_are_noticed_and_the_engine_is_replaced(run_pools):
    async def body(config, pools):
        real, calls = pools.policy._on_engine, []

        async def damaged_once(engine, method, seconds, *arguments):
            answer = await real(engine, method, seconds, *arguments)
            if method == "finish_update" and not calls:
                calls.append(engine.actor)
                return "0" * 24
            return answer

        pools.policy._on_engine = damaged_once
        await pools.policy.publish(1)
        assert pools.engines.engines[0].actor is not calls[0]
        ticket = await pools.rollout.generate(questions(config, 1)[0], Sampling((1,), 1.0, 8))
        assert ticket.facts.weight_version == 1

    run_pools(body, *SMALL)

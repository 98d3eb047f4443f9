"""policy/hooks/ around an optimizer step, on a fake rank: gradients told apart, balanced, separate states, Reptile."""

from types import SimpleNamespace

import pytest
import torch

from mel_ray.policy.hooks.balanced import Balanced
from mel_ray.policy.hooks.gradient_split import GradientSplit
from mel_ray.policy.hooks.hook import Hook, norms_and_cosine
from mel_ray.policy.hooks.outliers import Outliers
from mel_ray.policy.hooks.reptile import Reptile
from mel_ray.policy.hooks.separate import Separate
from mel_ray.policy.statistics import Same
from mel_ray.records.step import OptimizerStep, TrainSettings

NO_ROWS = ((),)
POLICY, LESSON = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])], [torch.tensor([0.0, 0.6]), torch.tensor([0.8])]
COSINE = 4 * 0.8 / (5 * 1)


@pytest.fixture(autouse=True)
def ranks(monkeypatch):
    """One rank; a test may set `ranks.count`, and then all of them hold the same."""
    group = SimpleNamespace(count=1)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(group.count))
    return group


class FakeRank:
    number = 0

    def __init__(self, zero=None) -> None:
        self.zero = zero
        self.held = [torch.zeros(2), torch.zeros(1)]

    def backward(self, gradient) -> None:
        for held, more in zip(self.held, gradient, strict=True):
            held += more

    def gradients(self):
        return [held.clone() for held in self.held]

    def set_gradients(self, gradients) -> None:
        self.held = [gradient.clone() for gradient in gradients]

    def gradient_norm(self) -> float:
        return sum(float(gradient.square().sum()) for gradient in self.held) ** 0.5

    def keep(self, state, file) -> None:
        torch.save(state, file)

    def kept(self, file):
        return torch.load(file, weights_only=True)


def run_step(hooks, step, microbatches):
    """The gradient that the optimizer would step with, and what the hooks measured."""
    rank, measured = FakeRank(), {}
    for number, gradient in enumerate(microbatches):
        for hook in hooks:
            hook.before_microbatch(step, number, rank)
        rank.backward(gradient)
    for hook in hooks:
        measured |= hook.before_optimizer(step, rank)
    assert all(isinstance(measure, Same) for measure in measured.values())
    return rank.held, {name: measure.value for name, measure in measured.items()}


HALVES = [[0.5 * part for part in POLICY], [0.5 * part for part in POLICY], LESSON]
WHOLE = {"policy_norm": 5.0, "experience_norm": 1.0, "gradient_cosine": COSINE}


def both(**options):
    """A step whose third microbatch is the first that holds lessons."""
    return OptimizerStep(NO_ROWS, experience_from=2, **options)


def test_the_two_gradients_of_a_step_are_measured_apart_and_left_alone():
    held, measured = run_step([GradientSplit(), Balanced()], both(), HALVES)
    assert measured == pytest.approx(WHOLE)
    assert torch.cat(held).tolist() == pytest.approx([3.0, 0.6, 4.8])


def test_the_lessons_gradient_is_scaled_to_a_fraction_of_the_policys():
    held, measured = run_step([GradientSplit(), Balanced()], both(balance=0.3), HALVES)
    assert measured == pytest.approx(WHOLE)  # before it was scaled
    lesson = torch.cat(held) - torch.cat(POLICY)
    assert lesson.norm().item() == pytest.approx(0.3 * 5)
    assert lesson.tolist() == pytest.approx([0.0, 0.9, 1.2])


def test_a_zero_gradient_of_lessons_stays_zero():
    nothing = [torch.zeros(2), torch.zeros(1)]
    held, measured = run_step([Balanced()], both(balance=0.3), [*HALVES[:2], nothing])
    assert torch.cat(held).tolist() == torch.cat(POLICY).tolist()
    assert (measured["experience_norm"], measured["gradient_cosine"]) == (0, 0)


def test_separate_steps_are_compared_with_each_other():
    hook = GradientSplit()
    assert run_step([hook], OptimizerStep(NO_ROWS, is_compared=True), [POLICY])[1] == {}
    _, measured = run_step([hook], OptimizerStep(NO_ROWS, optimizer="experience", is_compared=True), [LESSON])
    assert measured == pytest.approx(WHOLE)


@pytest.mark.parametrize(
    "step", [OptimizerStep(NO_ROWS), OptimizerStep(NO_ROWS, optimizer="experience")], ids=["policy", "experience"]
)
def test_a_step_that_asks_for_nothing_is_neither_measured_nor_changed(step):
    hooks = [GradientSplit(), Balanced()]
    assert run_step(hooks, step, [POLICY, LESSON])[1] == {}
    run_step(hooks, both(), HALVES)  # also after one that did
    assert run_step(hooks, step, [POLICY, LESSON])[1] == {}


def test_nothing_of_a_step_is_left_for_the_next():
    hooks = [GradientSplit(), Balanced()]
    for options in ({}, {"balance": 0.3}):
        first = run_step(hooks, both(**options), HALVES)[1]
        assert run_step(hooks, both(**options), HALVES)[1] == first


@pytest.mark.parametrize("hook", [GradientSplit(), Balanced()])
def test_a_step_without_its_lessons_is_a_mistake(hook):
    step = both(balance=0.3) if isinstance(hook, Balanced) else both()
    with pytest.raises(RuntimeError, match="no microbatch"):
        run_step([hook], step, HALVES[:2])


def test_norms_are_those_of_all_ranks_together(ranks):
    ranks.count = 4
    policy_norm, experience_norm, cosine = norms_and_cosine(POLICY, LESSON)
    assert (policy_norm, experience_norm, cosine) == pytest.approx((10.0, 2.0, COSINE))


def test_a_hook_that_overrides_nothing_does_nothing(tmp_path):
    hook, rank = Hook(), FakeRank()
    hook.before_microbatch(both(), 0, rank)
    with hook.optimizer_state(both()):
        assert hook.before_optimizer(both(), rank) == {}
    hook.after_update(TrainSettings(0.1), rank)
    hook.save(tmp_path, rank)
    hook.load(tmp_path, rank)
    assert list(tmp_path.iterdir()) == []


# -- states of their own


class FakeZero:
    """DeepSpeed's ZeRO-3 optimizer, as far as hooks see it: a flat partition, AdamW, and who was told what."""

    def __init__(self) -> None:
        self.partition = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.fp32_partitioned_groups_flat = [self.partition]
        self.optimizer = torch.optim.AdamW([self.partition], lr=0.0)
        self.calls, self.persistent_parameters = [], []
        self.step([0.0, 0.0, 0.0], 0.0)  # DeepSpeed makes the state with a step of nothing

    def step(self, gradient, lr=0.1) -> None:
        step_with(self.optimizer, self.partition, gradient, lr)

    def _partition_all_parameters(self) -> None:
        self.calls.append("released")

    def _reassign_or_swap_out_partitioned_parameters(self, number) -> None:
        self.calls.append(f"assigned {number}")


def step_with(optimizer, partition, gradient, lr=0.1) -> None:
    optimizer.param_groups[0]["lr"] = lr
    partition.grad = torch.tensor(gradient)
    optimizer.step()


UPDATES = [("policy", [1.0, 2.0, 3.0]), ("experience", [-5.0, 0.0, 1.0]), ("policy", [1.0, 1.0, 1.0]),
           ("experience", [-5.0, 1.0, 1.0]), ("experience", [2.0, 2.0, 2.0]), ("policy", [0.5, 0.0, 9.0])]  # fmt: skip


def train_separately(zero, hook, updates):
    for optimizer, gradient in updates:
        with hook.optimizer_state(OptimizerStep(NO_ROWS, optimizer=optimizer)):
            zero.step(gradient)


def two_optimizers(updates):
    """The same with two optimizers over one parameter, which is what `separate` stands for."""
    zero = FakeZero()
    other = torch.optim.AdamW([zero.partition], lr=0.0)
    step_with(other, zero.partition, [0.0, 0.0, 0.0], 0.0)
    for optimizer, gradient in updates:
        step_with(zero.optimizer if optimizer == "policy" else other, zero.partition, gradient)
    return zero.partition.tolist()


def test_steps_on_lessons_have_an_adam_state_of_their_own():
    zero = FakeZero()
    train_separately(zero, Separate(FakeRank(zero)), UPDATES)
    assert zero.partition.tolist() == two_optimizers(UPDATES)


def test_the_usual_state_comes_back_although_a_step_fails():
    zero = FakeZero()
    hook, usual = Separate(FakeRank(zero)), zero.optimizer.state[zero.partition]
    with pytest.raises(FloatingPointError), hook.optimizer_state(OptimizerStep(NO_ROWS, optimizer="experience")):
        assert zero.optimizer.state[zero.partition] is not usual
        raise FloatingPointError
    assert zero.optimizer.state[zero.partition] is usual


def test_the_second_state_continues_from_a_checkpoint(tmp_path):
    zero = FakeZero()
    hook = Separate(FakeRank(zero))
    train_separately(zero, hook, UPDATES[:3])
    hook.save(tmp_path, FakeRank())
    # a new process, whose weights and usual state DeepSpeed restores
    new = FakeZero()
    hook = Separate(FakeRank(new))
    new.partition.data.copy_(zero.partition.data)
    new.optimizer.load_state_dict(zero.optimizer.state_dict())
    hook.load(tmp_path, FakeRank())
    train_separately(new, hook, UPDATES[3:])
    assert new.partition.tolist() == two_optimizers(UPDATES)


def test_a_checkpoint_without_a_second_state_begins_with_a_fresh_one(tmp_path):
    zero = FakeZero()
    hook = Separate(FakeRank(zero))
    hook.save(tmp_path, FakeRank())
    assert list(tmp_path.iterdir()) == []
    train_separately(zero, hook, UPDATES[1:2])
    hook.load(tmp_path, FakeRank())
    train_separately(zero, hook, UPDATES[1:2])
    assert zero.partition.tolist() == pytest.approx(twice_from_a_fresh_state(UPDATES[1][1]))


def twice_from_a_fresh_state(gradient):
    zero = FakeZero()
    for _ in range(2):
        fresh = torch.optim.AdamW([zero.partition], lr=0.0)
        step_with(fresh, zero.partition, [0.0, 0.0, 0.0], 0.0)
        step_with(fresh, zero.partition, gradient)
    return zero.partition.tolist()


def moved(zero, *values):
    zero.partition.data.copy_(torch.tensor(values))


def test_reptile_goes_part_of_the_way_and_begins_there():
    zero = FakeZero()
    rank = FakeRank(zero)
    hook = Reptile(rank)
    moved(zero, 5.0, 2.0, 3.0)
    hook.after_update(TrainSettings(0.1), rank)
    assert zero.partition.tolist() == [5.0, 2.0, 3.0]  # not due
    hook.after_update(TrainSettings(0.1, slow_rate=0.25), rank)
    assert zero.partition.tolist() == [2.0, -1.0, 3.0]  # a quarter of the way from 1, -2, 3
    assert zero.calls == ["released", "assigned 0"]  # the ranks' small parameters too
    moved(zero, 6.0, -1.0, 3.0)
    hook.after_update(TrainSettings(0.1, slow_rate=0.5), rank)
    assert zero.partition.tolist() == [4.0, -1.0, 3.0]  # from where the last one ended


def test_slow_weights_continue_from_a_checkpoint_or_begin_with_the_current_ones(tmp_path):
    zero = FakeZero()
    hook, rank = Reptile(FakeRank(zero)), FakeRank(zero)
    moved(zero, 5.0, 2.0, 3.0)
    hook.save(tmp_path, rank)
    other = Reptile(rank)  # made from the weights at 5, 2, 3
    other.load(tmp_path, rank)
    other.after_update(TrainSettings(0.1, slow_rate=0.5), rank)
    assert zero.partition.tolist() == [3.0, 0.0, 3.0]
    moved(zero, 7.0, 7.0, 7.0)
    hook.load(tmp_path / "none", rank)  # a run that had no slow weights
    moved(zero, 9.0, 7.0, 7.0)
    hook.after_update(TrainSettings(0.1, slow_rate=0.5), rank)
    assert zero.partition.tolist() == [8.0, 7.0, 7.0]


def test_ranks_keep_files_of_their_own(tmp_path):
    for number in range(2):
        rank = FakeRank(FakeZero())
        rank.number = number
        Reptile(rank).save(tmp_path, rank)
        hook = Separate(rank)
        train_separately(rank.zero, hook, UPDATES[:2])
        hook.save(tmp_path, rank)
    assert len(list(tmp_path.iterdir())) == 4


# -- updates that are left out


@pytest.mark.parametrize(("limit", "is_left_out"), [(None, False), (1e9, False), (1.0, True)])
def test_a_gradient_that_is_too_large_is_made_one_that_deepspeed_skips(limit, is_left_out):
    rank = FakeRank()
    rank.set_gradients(LESSON)
    assert rank.gradient_norm() > 1.0
    assert Outliers(limit).before_optimizer(OptimizerStep(NO_ROWS), rank) == {}
    assert all(bool(gradient.isnan().all()) == is_left_out for gradient in rank.held)

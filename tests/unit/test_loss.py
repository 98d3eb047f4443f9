"""policy/loss.py against numbers written out by hand, and what no batch may change."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.policy.loss import TokenBatch, joint_loss, mismatch
from mel_ray.records.step import LossSettings

CLIPPED = LossSettings()
NO_INPUTS = {"ids": torch.zeros(0), "predicts": torch.zeros(0)}  # of the model; the loss takes its logprobs
EVERY_LOSS = [
    CLIPPED,
    LossSettings(clip_high=0.28, dual_clip=3.0, log_ratio_clamp=20.0),
    LossSettings(surrogate="sequence_clipped", clip_low=3e-4, clip_high=4e-4),
    LossSettings(surrogate="cispo", clip_low=1.0, clip_high=4.0),
    LossSettings(surrogate="logprob"),
    LossSettings(importance_cap=2.0),
    LossSettings(importance_cap=1.5, importance_level="sequence"),
    LossSettings(importance_cap=1.5, importance_level="sequence", importance_mode="mask"),
    LossSettings(importance_cap=1.5, importance_floor=0.6, importance_mode="mask"),
    LossSettings(importance_cap=1.5, importance_floor=0.6, importance_level="sequence"),
    LossSettings(denominator="sampled"),
    LossSettings("sequence_clipped", denominator="sampled"),
    LossSettings(kl_coefficient=0.1, kl_estimator="k1"),
    LossSettings(kl_coefficient=0.1, kl_estimator="k2"),
    LossSettings(kl_coefficient=0.1, kl_estimator="k3", entropy_coefficient=0.01),
]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def leaf(*values: float) -> torch.Tensor:
    return column(*values).requires_grad_()


def tokens(advantages, old, sampled=None, weight=1.0, nll=0.0, rows=None, reference=None) -> TokenBatch:
    count = len(advantages)
    return TokenBatch(
        **NO_INPUTS,
        pg_weight=column(*[weight] * count),
        nll_weight=column(*[nll] * count),
        advantages=column(*advantages),
        sampled_logprobs=column(*(sampled or old)),
        rows=torch.tensor(rows or list(range(count))),
        old_logprobs=column(*old),
        reference_logprobs=column(*reference) if reference else None,
    )


def gradient(logprobs: list[float], batch: TokenBatch, loss: LossSettings) -> tuple[float, list[float]]:
    values = leaf(*logprobs)
    result, _ = joint_loss(values, torch.zeros_like(values), batch, loss)
    result.backward()
    return result.item(), values.grad.tolist()


def test_on_policy_gradient_is_weighted_advantage_and_nll():
    logprobs = leaf(-1.1, -2.1, -0.7)
    batch = TokenBatch(**NO_INPUTS, rows=torch.tensor([0, 0, 1]), pg_weight=column(0.25, 0.25, 0),
                       nll_weight=column(0, 0, 0.5), advantages=column(1, -2, 0),
                       sampled_logprobs=column(-1, -2, -3))  # fmt: skip
    loss, parts = joint_loss(logprobs, torch.zeros(3), batch, CLIPPED)
    loss.backward()
    # d/dlogp of -w * rho * A at rho = 1 is -w * A; of -v * logp is -v
    assert logprobs.grad.tolist() == pytest.approx([-0.25, 0.5, -0.5])
    assert parts["policy"].item() == pytest.approx(-(0.25 * 1 + 0.25 * -2))
    assert parts["nll"].item() == pytest.approx(0.35)
    assert parts["clipped"].tolist() == parts["outside"].tolist() == [False, False]  # of the policy tokens


RATIOS = [1.5, 1.5, 0.5, 0.5]
LOGPROBS = [math.log(r) - 1 for r in RATIOS]


def test_clipping_takes_the_gradient_away_only_where_it_must():
    loss, grad = gradient(LOGPROBS, tokens([1, -1, 1, -1], [-1.0] * 4), CLIPPED)
    # min(rho A, clip(rho) A): 1.2, -1.5, 0.5, -0.8
    assert loss == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8))
    assert grad == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_clip_range_may_be_lopsided():
    loss, _ = gradient(LOGPROBS, tokens([1, -1, 1, -1], [-1.0] * 4), LossSettings(clip_low=0.3, clip_high=0.28))
    assert loss == pytest.approx(-(1.28 - 1.5 + 0.5 - 0.7))


def test_dual_clip_bounds_what_a_negative_advantage_costs():
    batch = tokens([-1, -1, 1], [-1.0] * 3)
    logprobs = [-1 + math.log(5.0), -1 + math.log(2.0), -1 + math.log(5.0)]
    loss, grad = gradient(logprobs, batch, LossSettings(dual_clip=3.0))
    # max(min(-5, -1.2), -3) = -3 without gradient; -2 within; a positive advantage is clipped as ever
    assert loss == pytest.approx(-(-3.0 - 2.0 + 1.2))
    assert grad == pytest.approx([0.0, 2.0, 0.0])


def test_a_log_ratio_clamp_holds_the_ratio():
    loss, grad = gradient([0.0], tokens([-1], [-30.0]), LossSettings(log_ratio_clamp=2.0))
    assert loss == pytest.approx(math.exp(2.0))
    assert grad == [0.0]


def test_gspo_clips_by_the_geometric_mean_of_the_sequence():
    # one sequence of ratios 1.5 and 0.5: s = sqrt(0.75) = 0.8660; another of 1.5 and 1.5: s = 1.5
    batch = tokens([1, 1, 1, 1], [-1.0] * 4, rows=[0, 0, 1, 1])
    loss, grad = gradient([math.log(r) - 1 for r in (1.5, 0.5, 1.5, 1.5)], batch, LossSettings("sequence_clipped"))
    s = math.sqrt(0.75)
    assert loss == pytest.approx(-(2 * s + 2 * 1.2))
    assert grad == pytest.approx([-s, -s, 0, 0])  # ds/dlogp_t = s/2, on two tokens


def test_cispo_clips_weights_but_drops_no_gradient():
    batch = tokens([1, -1, 1, -1], [-1.0] * 4)
    _, grad = gradient(LOGPROBS, batch, LossSettings("cispo", clip_low=0.2, clip_high=0.2))
    assert grad == pytest.approx([-1.2, 1.2, -0.8, 0.8])
    _, unbounded_below = gradient(LOGPROBS, batch, LossSettings("cispo", clip_low=1.0, clip_high=4.0))
    assert unbounded_below == pytest.approx([-1.5, 1.5, -0.5, 0.5])


def test_the_logprob_surrogate_is_nll_where_the_advantage_is_one():
    loss, grad = gradient(LOGPROBS, tokens([1, 1, 0, 0], [-5.0] * 4), LossSettings("logprob"))
    assert loss == pytest.approx(-(LOGPROBS[0] + LOGPROBS[1]))
    assert grad == [-1, -1, 0, 0]


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (LossSettings(importance_cap=2.0), [1.0, 2.0, math.exp(-1)]),
        (LossSettings(importance_cap=2.0, importance_mode="mask"), [1.0, 0.0, math.exp(-1)]),
        # the first two tokens are one sequence: e^0 * e^2
        (LossSettings(importance_cap=9.0, importance_level="sequence"), [math.exp(2)] * 2 + [math.exp(-1)]),
        (LossSettings(importance_cap=2.0, importance_level="sequence"), [2.0, 2.0, math.exp(-1)]),
        (LossSettings(importance_cap=2.0, importance_level="sequence", importance_mode="mask"), [0, 0, math.exp(-1)]),
        # two bounds: the last token's e^-1 = 0.37 is too small
        (LossSettings(importance_cap=2.0, importance_floor=0.5), [1.0, 2.0, 0.5]),
        (LossSettings(importance_cap=2.0, importance_floor=0.5, importance_mode="mask"), [1.0, 0.0, 0.0]),
        (LossSettings(importance_cap=9.0, importance_floor=0.5, importance_mode="mask"), [1.0, math.exp(2), 0.0]),
        (LossSettings(importance_cap=2.0, importance_floor=0.5, importance_level="sequence"), [2.0, 2.0, 0.5]),
        (LossSettings(importance_cap=9.0, importance_floor=0.5, importance_level="sequence", importance_mode="mask"),
         [math.exp(2), math.exp(2), 0.0]),
    ],
)  # fmt: skip
def test_importance_weights_correct_for_the_engine(loss, weights):
    old, sampled = [-1.0] * 3, [-1.0, -3.0, 0.0]
    _, grad = gradient(old, tokens([1, 1, 1], old, sampled, rows=[0, 0, 1]), loss)
    assert grad == pytest.approx([-w for w in weights])


@pytest.mark.parametrize("mode", ["truncate", "mask"])
@pytest.mark.parametrize(
    ("level", "floor", "outside"),
    [
        ("token", None, [False, True, False, False]),
        ("token", 0.5, [False, True, True, False]),
        ("sequence", None, [True, True, False, False]),
        ("sequence", 0.3, [True, True, True, True]),  # e^-1 * e^-0.5 = 0.22
    ],
)
def test_it_is_told_which_importance_weights_lie_outside_their_bounds(level, mode, floor, outside):
    old, sampled = [-1.0] * 4, [-1.0, -3.0, 0.0, -0.5]
    loss = LossSettings(importance_cap=2.0, importance_floor=floor, importance_level=level, importance_mode=mode)
    _, parts = joint_loss(column(*old), torch.zeros(4), tokens([1] * 4, old, sampled, rows=[0, 0, 1, 1]), loss)
    assert parts["outside"].tolist() == outside


SAMPLED = LossSettings(denominator="sampled")


@pytest.mark.parametrize("old", [None, [-9.0] * 4], ids=["one optimizer step", "several"])
def test_with_sampled_the_ratio_is_that_to_the_policy_that_sampled(old):
    # ratios 1.5, 1.5, 0.5, 0.5 to the sampled logprobs, whatever the policy before the update says
    batch = replace(tokens([1, -1, 1, -1], [0.0] * 4, [-1.0] * 4), old_logprobs=column(*old) if old else None)
    loss, grad = gradient(LOGPROBS, batch, SAMPLED)
    assert loss == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8))
    assert grad == pytest.approx([0.0, 1.5, -0.5, 0.0])
    _, grad = gradient(LOGPROBS, batch, replace(SAMPLED, surrogate="cispo", clip_low=1.0, clip_high=0.2))
    assert grad == pytest.approx([-1.2, 1.2, -0.5, 0.5])
    # without it, the first optimizer step knows nothing of the policy that sampled
    if old is None:
        assert gradient(LOGPROBS, batch, CLIPPED)[1] == [-1, 1, -1, 1]


@given(st.integers(0, 10**6), st.booleans())
def test_with_a_cap_the_objective_is_the_decoupled_one(seed, has_moved):
    """arXiv 2505.24298: E[pi_prox / pi_behave min(u A, clip(u) A)] with u = pi / pi_prox, by autograd on probabilities.

    In the first optimizer step pi is pi_prox.
    """
    generator, count = torch.Generator().manual_seed(seed), 20
    proximal, behaviour = (0.05 + 0.9 * torch.rand((2, count), generator=generator, dtype=torch.float64)).unbind()
    factor = torch.exp(0.5 * torch.randn(count, generator=generator, dtype=torch.float64)) if has_moved else 1.0
    advantages = torch.randn(count, generator=generator, dtype=torch.float64)
    probability = (proximal * factor).clone().requires_grad_()
    u = probability / proximal
    expected = -(proximal / behaviour * torch.minimum(u * advantages, u.clamp(0.8, 1.2) * advantages)).sum()
    expected.backward()
    batch = tokens(advantages.tolist(), proximal.log().tolist(), behaviour.log().tolist())
    if not has_moved:
        batch = replace(batch, old_logprobs=None)
    loss, grad = gradient(probability.detach().log().tolist(), batch, LossSettings(importance_cap=1e6))
    assert loss == pytest.approx(expected.item())
    # d / d log pi = pi d / d pi
    assert grad == pytest.approx((probability.grad * probability.detach()).tolist())


@pytest.mark.parametrize(("estimator", "slope"), [("k1", 1.0), ("k2", 0.5), ("k3", 1 - math.exp(-0.5))])
def test_kl_in_the_loss_pulls_towards_the_reference(estimator, slope):
    batch = tokens([0.0], [-1.0], reference=[-1.5])  # d = 0.5
    _, grad = gradient([-1.0], batch, LossSettings(kl_coefficient=0.1, kl_estimator=estimator))
    assert grad == pytest.approx([0.1 * slope])


def test_an_entropy_bonus_rewards_entropy():
    logprobs, entropy = leaf(-1.0), leaf(0.7)
    loss, _ = joint_loss(logprobs, entropy, tokens([0.0], [-1.0], weight=0.5), LossSettings(entropy_coefficient=0.01))
    loss.backward()
    assert loss.item() == pytest.approx(-0.5 * 0.01 * 0.7)
    assert entropy.grad.item() == pytest.approx(-0.005)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_no_weight_gives_zero_gradient_and_no_nan(loss):
    # also where ratios overflow
    batch = tokens([0, 0, 0], [-1.0, -900.0, 0.0], [-900.0, 0.0, 0.0], weight=0.0, reference=[0.0, 0.0, 0.0])
    value, grad = gradient([-1.0, -50.0, -900.0], batch, loss)
    assert value == 0
    assert grad == [0, 0, 0]


@st.composite
def batches(draw):
    """Rows of one to five tokens, policy or lesson, and an order of the rows."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=7))
    order = draw(st.permutations(range(len(lengths))))
    cuts = draw(st.sets(st.integers(1, len(lengths)), max_size=3))
    return lengths, list(order), sorted(cuts | {len(lengths)}), draw(st.integers(0, 10**6))


@pytest.mark.parametrize("loss", EVERY_LOSS)
@given(batches())
def test_loss_and_gradient_do_not_depend_on_order_or_split(loss, drawn):
    lengths, order, cuts, seed = drawn
    generator = torch.Generator().manual_seed(seed)

    def normal(count: int) -> torch.Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    rows = []
    for number, length in enumerate(lengths):
        is_lesson = number % 3 == 2
        weight = torch.full((length,), 1.0 / (len(lengths) * length), dtype=torch.float64)
        none = torch.zeros(length, dtype=torch.float64)
        fields = {"pg_weight": none if is_lesson else weight, "nll_weight": weight if is_lesson else none,
                  "advantages": normal(1).expand(length), "sampled_logprobs": normal(length) - 2,
                  "old_logprobs": normal(length) - 2, "reference_logprobs": normal(length) - 2}  # fmt: skip
        rows.append((fields, normal(length) * 0.3 - 2, normal(length).abs()))

    def over(numbers: list[int]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        leaves = {n: rows[n][1].clone().requires_grad_() for n in numbers}
        joined = {name: torch.cat([rows[n][0][name] for n in numbers]) for name in rows[0][0]}
        index = torch.cat([torch.full((lengths[n],), i) for i, n in enumerate(numbers)])
        value, _ = joint_loss(torch.cat(list(leaves.values())), torch.cat([rows[n][2] for n in numbers]),
                              TokenBatch(**NO_INPUTS, rows=index, **joined), loss)  # fmt: skip
        value.backward()
        return value.detach(), {n: leaf.grad for n, leaf in leaves.items()}

    whole, gradients = over(list(range(len(lengths))))
    total, start = torch.zeros((), dtype=torch.float64), 0
    for cut in cuts:
        part, its_gradients = over(order[start:cut])
        total, start = total + part, cut
        for number, grad in its_gradients.items():
            torch.testing.assert_close(grad, gradients[number], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(total, whole, rtol=1e-10, atol=1e-14)


def test_on_policy_every_surrogate_has_the_same_gradient():
    batch = replace(tokens([0.7, 0.7, -1.2], [-1.0, -2.0, -0.5], rows=[0, 0, 1]), old_logprobs=None)
    found = [gradient([-1.0, -2.0, -0.5], batch, LossSettings(s))[1]
             for s in ("clipped", "sequence_clipped", "cispo", "logprob")]  # fmt: skip
    for other in found:
        assert other == pytest.approx([-0.7, -0.7, 1.2])


def test_mismatch_of_equal_and_of_different_logprobs():
    same = torch.tensor([-1.0, -2.0])
    assert all(value == 0 for value in mismatch(same, same).values())
    differing = mismatch(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.0]))
    assert differing["kl"].item() == pytest.approx(math.exp(-1) - 1 + 1)  # exp(d) - 1 - d at d = -1
    assert differing["max"].item() == 1
    assert differing["outside"].item() == 1

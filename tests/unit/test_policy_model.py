"""policy/model.py: padding and the company a sequence keeps change neither its loss nor its gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mel_ray.policy.loss import joint_loss
from mel_ray.policy.model import collate
from mel_ray.records.step import LossSettings, TrainSequence
from tests.unit.toy_model import VOCABULARY, toy_policy

CPU = torch.device("cpu")
LOSSES = [LossSettings(), LossSettings("sequence_clipped"), LossSettings(kl_coefficient=0.1, needs_reference=True)]


@st.composite
def sequences(draw):
    """Attempts, of which some know old and reference logprobs, and lessons; in two microbatches of any order."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    has_old, has_reference = draw(st.booleans()), draw(st.booleans())
    made = []
    for number in range(draw(st.integers(1, 6))):
        prompt, mask = draw(st.integers(1, 5)), draw(st.lists(st.booleans(), min_size=1, max_size=7))
        trained, is_lesson = sum(mask), number % 3 == 2
        weight, none = np.full(trained, 0.1), np.zeros(trained)
        known = rng.normal(-2, 0.3, trained)
        made.append(
            TrainSequence(
                token_ids=rng.integers(0, VOCABULARY, prompt + len(mask)),
                mask=[False] * prompt + mask,
                pg_weight=none if is_lesson else weight,
                nll_weight=weight if is_lesson else none,
                advantages=rng.normal(0, 1, trained),
                sampled_logprobs=rng.normal(-2, 1, trained),
                old_logprobs=known if has_old and not is_lesson else None,
                reference_logprobs=known - 0.1 if has_reference and not is_lesson else None,
            )
        )
    order = draw(st.permutations(made))
    cut = draw(st.integers(1, len(made)))
    return made, [part for part in (order[:cut], order[cut:]) if part]


@settings(max_examples=25)
@given(sequences(), st.sampled_from(LOSSES))
def test_loss_and_gradient_do_not_depend_on_padding_or_company(drawn, loss):
    made, parts = drawn
    model = toy_policy()

    def total(batches) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        value = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            tokens = collate(batch, CPU)
            logprobs, entropy = model(tokens.ids, tokens.predicts)
            value = value + joint_loss(logprobs, entropy, tokens, loss)[0]
        value.backward()
        return value.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    alone, alone_gradient = total([[sequence] for sequence in made])
    together, together_gradient = total([made])
    split, split_gradient = total(parts)
    for value, gradient in ((together, together_gradient), (split, split_gradient)):
        assert abs(value - alone) < 1e-5 * max(1.0, abs(alone))
        torch.testing.assert_close(gradient, alone_gradient, rtol=1e-4, atol=1e-6)


def sequence(ids, mask, **fields):
    trained = sum(mask)
    return TrainSequence(ids, mask, *([value] * trained for value in (0.5, 0.0, 1.0, -2.0)), **fields)


def test_a_microbatch_is_padded_on_the_right_and_its_tokens_come_in_row_order():
    batch = collate([sequence([5, 6, 7, 8], [0, 1, 0, 1]), sequence([9, 4], [0, 1])], CPU)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert batch.predicts.tolist() == [[True, False, True], [True, False, False]]
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.pg_weight.tolist() == [0.5] * 3
    assert (batch.old_logprobs, batch.reference_logprobs) == (None, None)


@pytest.mark.parametrize("name", ["old_logprobs", "reference_logprobs"])
def test_what_one_row_knows_and_another_does_not_is_zero_there(name):
    batch = collate([sequence([5, 6], [0, 1], **{name: [-0.25]}), sequence([9, 4, 4], [0, 1, 1])], CPU)
    assert getattr(batch, name).tolist() == [-0.25, 0, 0]

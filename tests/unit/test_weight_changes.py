"""weights/changes.py: changed elements alone arrive as all elements would, to the last bit."""

import pytest
import torch

from mel_ray.weights.changes import AS_IT_IS, Changes, apply_changes, payload_bytes
from mel_ray.weights.checksum import combined_checksum, raw_bytes, tensor_checksum
from mel_ray.weights.parameters import ITEM_BYTES, ParameterMeta
from mel_ray.weights.sender import FlatSender, Meeting

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
MADE_OF = [ParameterMeta("a", "float32", (2, 3)), ParameterMeta("b", "bfloat16", (4,))]


def same_bits(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(raw_bytes(one), raw_bytes(other))


class Wire(FlatSender):
    """A flat sender whose receiver is a second buffer in this process."""

    def __init__(self, metas, delta):
        super().__init__(metas, Meeting("", 0, 1), delta)
        self.received, self.forms = self.allocate(len(self.memory)), []

    def send(self, weights):
        checksums = {}
        self.forms = []
        for place, changes in self.updated(weights, checksums):
            bucket = place.bytes_of(self.received)
            self.forms.append(AS_IT_IS if changes is None else changes.count)
            if changes is None:
                bucket.copy_(place.bytes_of(self.memory))
                continue
            payload, item = changes.payload(), ITEM_BYTES[place.metas[0].dtype]
            assert len(payload) == payload_bytes(changes.count, item)
            apply_changes(payload, changes.count, item, bucket)
        return combined_checksum(checksums)

    def arrived(self):
        return {name: tensor for place in self.places for name, tensor in place.views_of(self.received)}


SPECIAL = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-40])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_changes_add_up_to_the_same_bits_and_checksum_over_many_updates(dtype):
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    weights = {"a": torch.randn(300, 70).to(kind), "odd": torch.randn(7).to(kind), "one": torch.tensor(1.0).to(kind)}
    metas = [ParameterMeta(name, dtype, tuple(tensor.shape)) for name, tensor in weights.items()]
    wire, dense = Wire(metas, delta=True), Wire(metas, delta=False)
    for update in range(6):
        assert wire.send(weights.items()) == dense.send(weights.items())
        assert wire.forms == [AS_IT_IS] if update in (0, 5) else 400 < wire.forms[0] <= 501
        assert all(same_bits(wire.arrived()[name], tensor) for name, tensor in weights.items())
        where = torch.randperm(21000)[: 21000 if update == 4 else 500]
        words = weights["a"].view(-1)
        words[where] = torch.where(words[where] == 0, 1.0, -words[where].nan_to_num()) + 1
        words[where[:5]] = SPECIAL.to(kind)
        weights["one"] += 1


def test_the_sign_of_zero_and_the_bits_of_nan_travel():
    before = torch.zeros(400)
    before.view(torch.int32)[7] = 0x7FC00001
    wire = Wire([ParameterMeta("w", "float32", (400,))], delta=True)
    wire.send([("w", before)])
    after = before.clone()
    after[3], after.view(torch.int32)[7] = -0.0, 0x7FC00002
    wire.send([("w", after)])
    assert wire.forms == [2]
    assert same_bits(wire.arrived()["w"], after)


def test_nothing_travels_where_nothing_changed():
    wire = Wire(MADE_OF, delta=True)
    wire.send(WEIGHTS.items())
    assert wire.send(WEIGHTS.items()) == combined_checksum(
        {name: tensor_checksum(tensor) for name, tensor in WEIGHTS.items()}
    )
    assert wire.forms == [0, 0]


def test_after_a_publish_that_broke_off_all_weights_travel_again():
    wire = Wire(MADE_OF, delta=True)
    wire.send(WEIGHTS.items())
    with pytest.raises(RuntimeError, match="weights came as b"):
        wire.send(reversed(WEIGHTS.items()))
    wire.send(WEIGHTS.items())
    assert wire.forms == [AS_IT_IS, AS_IT_IS]


def test_a_bucket_of_which_much_changed_travels_as_it_is():
    for count, is_worth_it in ((100, True), (400, False)):
        before = torch.zeros(1000)
        changes = Changes(4, before.nbytes)
        after = before.clone()
        after[:count] = 1.0
        assert changes.take(after, before, 0) == tensor_checksum(after)
        assert torch.equal(before, after)
        assert changes.is_worth_it == is_worth_it

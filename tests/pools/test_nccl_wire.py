"""The NCCL transport's ends with vLLM's own packing between them, over a pretended communicator on CPU.

It proves the format, the pieces, the checksums and the error paths; not streams, and not the rendezvous.
"""

import contextlib
import queue
import threading

import pytest
import torch

from mel_ray.weights.checksum import combined_checksum
from mel_ray.weights.nccl.sender import Sender
from mel_ray.weights.parameters import ParameterMeta, dense_update_info
from mel_ray.weights.phases import Phases
from mel_ray.weights.sender import Meeting

BUFFER = 4000  # bytes a piece, so that the weights below need several


class Lines:
    """From the sender to each receiver. `broken`: a receiver that fails at its second piece."""

    def __init__(self, count):
        self.queues, self.pieces, self.broken = [queue.Queue() for _ in range(count)], 0, None

    def broadcast(self, tensor, src):
        self.pieces += 1
        for line in self.queues:
            line.put(tensor.clone())

    def receiving(self, number):
        return Receiving(self, number)


class Receiving:
    def __init__(self, lines, number):
        self._lines, self._number, self._taken = lines, number, 0

    def broadcast(self, tensor, src):
        self._taken += 1
        if self._lines.broken == self._number and self._taken == 2:
            raise ConnectionError("the receiver is gone")
        sent = self._lines.queues[self._number].get(timeout=10)
        tensor.view(-1)[:] = sent.view(-1)[: tensor.numel()]  # as many bytes as each end asks for


class Model:
    def __init__(self):
        self.loaded = {}

    def load_weights(self, weights):
        for name, tensor in weights:
            self.loaded[name] = tensor.clone()


@pytest.fixture
def without_cuda(monkeypatch):
    class Stream:
        def synchronize(self):
            return None

    packed = pytest.importorskip("vllm.distributed.weight_transfer.packed_tensor")
    monkeypatch.setattr(packed, "_get_streams", lambda device, count: tuple(Stream() for _ in range(count)))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)


def weights():
    torch.manual_seed(0)
    shapes = {"first": (40, 30), "odd": (7, 3), "second": (30, 40), "bias": (30,), "one": (1,)}
    return {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}


def metas_of(named):
    return [ParameterMeta(name, "bfloat16", tuple(tensor.shape)) for name, tensor in named.items()]


def sent(named, monkeypatch, announced=None, receivers=2, broken=None, metas=None):
    """The sender's checksum, the receivers, and what they raised."""
    from mel_ray.weights.nccl.receiver import Receiver

    lines = Lines(receivers)
    lines.broken = broken
    monkeypatch.setattr(Sender, "_communicator", staticmethod(lambda meeting: lines))
    sender = Sender(metas or metas_of(named), Meeting("nowhere", 1, 1 + receivers), False)
    sender._info.packed_buffer_size_bytes = BUFFER
    ends, errors = [], {}
    for number in range(receivers):
        end = object.__new__(Receiver)
        end.model, end.checksums, end.phases, end.device = Model(), {}, Phases(), torch.device("cpu")
        end.packed, end.packed_buffer_size_bytes, end.packed_num_buffers = True, BUFFER, 2
        end.model_update_group = lines.receiving(number)
        ends.append(end)

    def receive(number, end):
        try:
            end.receive_weights(end.parse_update_info(dense_update_info(announced or sender.metas)))
        except Exception as error:
            errors[number] = error

    threads = [threading.Thread(target=receive, args=pair) for pair in enumerate(ends)]
    for thread in threads:
        thread.start()
    checksum = sender.send(named.items())
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return checksum, ends, errors, lines


def test_every_receiver_gets_the_very_weights_in_several_pieces(without_cuda, monkeypatch):
    named = weights()
    checksum, ends, errors, lines = sent(named, monkeypatch)
    assert errors == {}
    assert lines.pieces > 1
    for end in ends:
        assert combined_checksum(end.checksums) == checksum
        assert end.model.loaded.keys() == named.keys()
        assert all(torch.equal(end.model.loaded[name], tensor) for name, tensor in named.items())


def test_receivers_that_were_told_another_order_have_another_checksum(without_cuda, monkeypatch):
    named = weights()
    metas = {meta.name: meta for meta in metas_of(named)}
    announced = [metas[name] for name in ("second", "odd", "first", "bias", "one")]
    checksum, ends, _, _ = sent(named, monkeypatch, announced)
    assert all(combined_checksum(end.checksums) != checksum for end in ends)


@pytest.mark.parametrize("change", ["order", "shape"])
def test_weights_that_are_not_as_announced_are_not_sent(without_cuda, monkeypatch, change):
    named = weights()
    metas = metas_of(named)
    if change == "order":
        metas[0], metas[2] = metas[2], metas[0]
    else:
        metas[0] = ParameterMeta("first", "bfloat16", (30, 40))
    monkeypatch.setattr(Sender, "_communicator", staticmethod(lambda meeting: Lines(0)))
    sender = Sender(metas, Meeting("nowhere", 1, 1), False)
    with pytest.raises(RuntimeError, match=r"weights came as first \(40, 30\), announced as"):
        sender.send(named.items())


def test_a_receiver_that_dies_says_so_and_keeps_its_model(without_cuda, monkeypatch):
    named = weights()
    checksum, ends, errors, _ = sent(named, monkeypatch, broken=1)
    assert list(errors) == [1]
    assert "the receiver is gone" in str(errors[1])
    assert isinstance(ends[1].model, Model)
    assert combined_checksum(ends[0].checksums) == checksum

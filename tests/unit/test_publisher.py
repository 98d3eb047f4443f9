"""weights/: what is told to whom and in which order, and what happens when weights arrive damaged."""

import asyncio
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.records.incident import LostActor, PoolError
from mel_ray.weights.checksum import combined_checksum, copied_checksum, raw_bytes, tensor_checksum, weighted_sum
from mel_ray.weights.parameters import ParameterMeta, buckets, dense_update_info, places
from mel_ray.weights.phases import Phases
from mel_ray.weights.publisher import DamagedWeights, WeightPublisher
from mel_ray.weights.registry import TRANSPORTS, transport_of
from mel_ray.weights.sender import Meeting, make_sender, tapped
from mel_ray.weights.shm.sender import SharedBuffer
from tests.unit.builders import config_of


class FakeSource:
    """Rank 0 of the policy; every call is noted in `calls`."""

    def __init__(self, calls):
        self.calls = calls

    async def address(self):
        return "10.0.0.1", 29500

    async def open_sender(self, transport, address, port, world, delta):
        self.calls.append(f"open {transport} {address}:{port} world {world}{' delta' if delta else ''}")

    async def update_info(self):
        self.calls.append("announce")
        return {"names": ["w"]}

    async def send(self):
        self.calls.append("send")
        return "good"

    async def close_sender(self):
        self.calls.append("close sender")


class FakeEngine:
    log = Path("logs/engine.log")

    def __init__(self, name, calls, checksum="good"):
        self.name, self.calls, self.checksum, self.connected = name, calls, checksum, None

    async def connect_weights(self, info):
        assert self.connected is None, "connected twice without being closed"
        self.connected = info
        self.calls.append(f"connect {self.name}")

    async def disconnect_weights(self):
        self.connected = None
        self.calls.append(f"close {self.name}")

    async def begin_update(self):
        assert self.connected is not None
        self.calls.append(f"begin {self.name}")

    async def receive(self, info):
        assert info == {"names": ["w"]}
        self.calls.append(f"receive {self.name}")

    async def finish_update(self, version, keep_kv=False):
        self.calls.append(f"finish {self.name} {version}")
        return self.checksum


class FakeEngines:
    def __init__(self, calls, *checksums):
        self.calls, self.whys = calls, []
        self.engines = [FakeEngine(f"e{n}", calls, checksum) for n, checksum in enumerate(checksums)]

    async def measures(self):
        return {}

    def replace(self, engine, why):
        self.calls.append(f"replace {engine.name}")
        self.whys.append(str(why))
        self.engines = [one for one in self.engines if one is not engine]

    def add(self, checksum="good"):
        new = FakeEngine("new", self.calls, checksum)
        self.engines = [*self.engines, new]
        return new


def publisher_of(*checksums, transport="shm", tensor_parallel=1, delta=False):
    calls = []
    engines = FakeEngines(calls, *checksums)
    return WeightPublisher(FakeSource(calls), engines, transport, tensor_parallel, delta), engines, calls


def published(publisher, calls, version=3):
    """The calls of one publish, after connecting."""
    asyncio.run(publisher.connect())
    calls.clear()
    asyncio.run(publisher.publish(version))
    return calls


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_weights_are_announced_and_received_while_they_are_sent(transport):
    publisher, _, calls = publisher_of("good", "good", transport=transport)
    assert calls == []
    published(publisher, calls)
    assert calls[:3] == ["begin e0", "begin e1", "announce"]
    assert sorted(calls[3:6]) == ["receive e0", "receive e1", "send"]
    assert calls[6:] == ["finish e0 3", "finish e1 3"]
    assert publisher.checksum == "good"


@pytest.mark.parametrize("sender_waits", [True, False])
def test_neither_end_waits_for_the_other_to_be_done(sender_waits):
    publisher, engines, calls = publisher_of("good", transport="gloo")
    done = asyncio.Event()

    class Source(FakeSource):
        async def send(self):
            await done.wait() if sender_waits else done.set()
            return await super().send()

    async def receive(info):
        done.set() if sender_waits else await done.wait()

    engines.engines[0].receive = receive
    publisher._source = Source(calls)
    published(publisher, calls)
    assert "finish e0 3" in calls


def test_an_engine_that_cannot_receive_is_replaced():
    publisher, engines, calls = publisher_of("good", "good")

    async def broken(info):
        raise PoolError("no such file")

    engines.engines[1].receive = broken
    published(publisher, calls)
    assert engines.whys == ["no such file"]
    assert [call for call in calls if call.startswith("finish")] == ["finish e0 3"]


def test_receivers_of_a_broadcast_know_their_place_after_the_sender():
    publisher, engines, calls = publisher_of("good", "good", transport="nccl", tensor_parallel=2)
    asyncio.run(publisher.connect())
    assert calls[0] == "open nccl 10.0.0.1:29500 world 5"
    assert [engine.connected for engine in engines.engines] == [
        {"master_address": "10.0.0.1", "master_port": 29500, "rank_offset": offset, "world_size": 5, "packed": True}
        for offset in (1, 3)
    ]


@pytest.mark.parametrize("delta", [True, False])
def test_both_ends_know_whether_changes_alone_travel(delta):
    publisher, engines, calls = publisher_of("good", transport="shm", delta=delta)
    asyncio.run(publisher.connect())
    assert engines.engines[0].connected == {"delta": delta}
    assert calls[0].endswith("delta") == delta


@pytest.mark.parametrize("transport", ["shm", "gloo"])
def test_damaged_weights_replace_the_broken_engine_alone_and_the_new_one_is_served(transport):
    publisher, engines, calls = publisher_of("good", "damaged", "good", transport=transport)
    published(publisher, calls)
    assert [call for call in calls if call.startswith("replace")] == ["replace e1"]
    assert engines.whys == ["weights arrived damaged on e1. Log: logs/engine.log"]
    calls.clear()
    new = FakeEngine("new", calls)
    asyncio.run(publisher.serve(new))  # while the others may be at work
    assert [call for call in calls if "e0" in call or "e2" in call] == ["close e0", "close e2"]
    assert calls[-3:] == ["send", "receive new", "finish new 3"]
    engines.engines.append(new)
    calls.clear()
    asyncio.run(publisher.publish(4))  # connects all again
    assert {"connect e0", "connect e2", "connect new", "close new"} <= set(calls)
    assert {"finish e0 4", "finish e2 4", "finish new 4"} <= set(calls)
    calls.clear()
    asyncio.run(publisher.publish(5))
    assert not [call for call in calls if call.startswith(("connect", "close", "open"))]


def test_weights_that_arrive_damaged_at_a_new_engine_are_a_failure_to_start_it():
    publisher, engines, calls = publisher_of("good")
    published(publisher, calls)
    with pytest.raises(DamagedWeights, match=r"damaged on new\. Log: logs/engine\.log"):
        asyncio.run(publisher.serve(engines.add("damaged")))


def test_an_engine_that_starts_before_anything_was_published_waits_for_the_first_publish():
    publisher, engines, calls = publisher_of("good")
    asyncio.run(publisher.serve(engines.engines[0]))
    assert calls == []


@pytest.mark.parametrize("transport", ["shm", "gloo"])
@pytest.mark.parametrize("moment", ["begin_update", "receive", "finish_update", "connect_weights"])
def test_an_engine_that_dies_during_a_publish_is_replaced_and_the_others_are_served(transport, moment):
    """Where the others lose their connection by it, they are connected and served again."""
    publisher, engines, calls = publisher_of("good", "good", "good", transport=transport)
    if moment != "connect_weights":
        asyncio.run(publisher.connect())
    dead, has_died = engines.engines[1], asyncio.Event()

    async def dies(*_):
        has_died.set()
        raise LostActor("e1: its process died", who="e1")

    class Source(FakeSource):
        async def send(self):
            self.calls.append("send")
            if transport == "gloo" and moment == "receive" and any(one is dead for one in engines.engines):
                await has_died.wait()
                raise PoolError("connection closed by peer")
            return "good"

    class Others:
        async def receive(self, info):
            if any(one is dead for one in engines.engines):
                await has_died.wait()
                raise PoolError("connection closed by peer")
            await FakeEngine.receive(self, info)

    if transport == "gloo" and moment == "receive":
        for one in (engines.engines[0], engines.engines[2]):
            one.receive = Others.receive.__get__(one)
    setattr(dead, moment, dies)
    publisher._source = Source(calls)
    calls.clear()
    asyncio.run(publisher.publish(7))
    assert [call for call in calls if call.startswith("replace")] == ["replace e1"]
    assert {"finish e0 7", "finish e2 7"} <= set(calls)
    assert [one.name for one in engines.engines] == ["e0", "e2"]


def test_a_publish_that_is_given_up_waits_for_nobody():
    """As when a rank hangs while it sends: the engines would be waited for until their deadline."""
    publisher, engines, _ = publisher_of("good", "good")

    async def never(*_):
        await asyncio.Event().wait()

    async def body():
        await publisher.connect()
        publisher._source.send = never
        for engine in engines.engines:
            engine.receive = never
        publishing = asyncio.create_task(publisher.publish(3))
        await asyncio.sleep(0.05)
        publishing.cancel()
        await asyncio.wait([publishing], timeout=5)
        assert publishing.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(body())
    assert len(engines.engines) == 2


def test_a_policy_that_cannot_send_ends_the_publish():
    publisher, _, calls = publisher_of("good", "good", transport="gloo")
    asyncio.run(publisher.connect())

    async def send():
        raise PoolError("policy rank 0, send: RuntimeError: no memory")

    publisher._source.send = send
    with pytest.raises(PoolError, match="no memory"):
        asyncio.run(publisher.publish(1))
    assert not [call for call in calls if call.startswith("replace")]


WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
MADE_OF = [ParameterMeta("a", "float32", (2, 3)), ParameterMeta("b", "bfloat16", (4,))]
CHECKSUM = combined_checksum({name: tensor_checksum(tensor) for name, tensor in WEIGHTS.items()})


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sent_to_memory(sender, weights):
    """What a reader of the shared buffer finds after a publish, and the checksum the sender returned."""
    info = sender.update_info()
    with open(info["path"], "r+b") as file:
        buffer = SharedBuffer(file.fileno())
    checksum = sender.send(weights.items())
    assert buffer.written == info["written_before"] + len(sender.places)
    return {name: tensor for place in sender.places for name, tensor in place.views_of(buffer.memory)}, checksum


def same_bits(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(raw_bytes(one), raw_bytes(other))


@pytest.mark.parametrize("delta", [True, False])
def test_readers_of_shared_memory_find_the_weights_of_every_publish(delta):
    sender = make_sender("shm", MADE_OF, Meeting("", 0, 2), delta)
    for weights in (WEIGHTS, {name: tensor * 2 for name, tensor in WEIGHTS.items()}):
        found, checksum = sent_to_memory(sender, weights)
        assert all(same_bits(found[name], tensor) for name, tensor in weights.items())
        assert checksum == combined_checksum({name: tensor_checksum(tensor) for name, tensor in weights.items()})
    path = Path(sender.update_info()["path"])
    sender.close()
    assert not path.exists()


def test_a_closed_broadcast_group_can_be_opened_again_on_the_same_port(port):
    for _ in range(2):
        sender = make_sender("gloo", MADE_OF, Meeting("127.0.0.1", port, 1), False)
        assert sender.send(WEIGHTS.items()) == CHECKSUM
        assert sender.update_info() == dense_update_info(MADE_OF)
        sender.close()


def test_weights_that_come_in_another_order_than_announced_are_refused(port):
    sender = make_sender("gloo", MADE_OF, Meeting("127.0.0.1", port, 1), False)
    with pytest.raises(RuntimeError, match="weights came as b, announced as a"):
        sender.send(reversed(WEIGHTS.items()))
    sender.close()


METAS = st.lists(
    st.builds(
        ParameterMeta,
        st.text("abc", min_size=1, max_size=3),
        st.sampled_from(["float32", "bfloat16"]),
        st.lists(st.integers(1, 9), max_size=3).map(tuple),
    ),
    max_size=12,
)


@given(METAS, st.integers(1, 400))
def test_buckets_keep_the_order_hold_one_dtype_and_stay_small(metas, limit):
    made = list(buckets(metas, limit))
    assert [meta for bucket in made for meta in bucket] == metas
    for bucket in made:
        assert len({meta.dtype for meta in bucket}) == 1
        assert len(bucket) == 1 or sum(meta.nbytes for meta in bucket) <= limit


@given(METAS, st.integers(1, 400))
def test_parameters_lie_apart_from_each_other_and_aligned(metas, limit):
    made = places(metas, limit)
    end = 0
    for place in made:
        assert place.start == end
        for meta, offset in zip(place.metas, place.offsets, strict=True):
            assert offset >= end
            assert offset % 64 == 0
            assert offset - end < 64
            end = offset + meta.nbytes
        assert place.stop >= end
        end = place.stop
    memory = torch.zeros(end, dtype=torch.uint8)
    shapes = [tuple(tensor.shape) for place in made for _, tensor in place.views_of(memory)]
    assert shapes == [meta.shape for meta in metas]


def test_what_is_announced_of_dense_weights():
    info = dense_update_info([ParameterMeta("a", "float32", (2, 3)), ParameterMeta("b", "bfloat16", ())])
    assert info == {"names": ["a", "b"], "dtype_names": ["float32", "bfloat16"], "shapes": [[2, 3], []]}


def sum_elsewhere(tensor):
    """The checksum as an accelerator computes it."""
    return weighted_sum(raw_bytes(tensor))


@pytest.mark.parametrize("checksum", [tensor_checksum, sum_elsewhere])
@given(st.integers(1, 40), st.data())
def test_a_checksum_sees_every_changed_bit_and_every_exchanged_value(checksum, count, data):
    torch.manual_seed(count)
    tensor = torch.randn(count)
    position, bit = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, 30))
    changed = tensor.clone()
    changed.view(torch.int32)[position] ^= 1 << bit
    assert checksum(changed) != checksum(tensor)
    if count > 3:
        assert checksum(tensor.flip(0)) != checksum(tensor)
        assert checksum(tensor.roll(1)) != checksum(tensor)


@pytest.mark.parametrize("count", [0, 1, 5, 1 << 17, (1 << 17) + 3, 1 << 19])
def test_a_copy_carries_the_checksum_of_what_was_copied(count):
    source, target = torch.randn(count), torch.empty(count)
    assert copied_checksum(source, target) == tensor_checksum(source)
    assert torch.equal(source, target)


def test_a_long_sum_weights_every_chunk():
    tensor = torch.zeros((1 << 21) + 5, dtype=torch.int64)
    sums = set()
    for position in (0, 1, (1 << 20) - 1, 1 << 20, 1 << 21, (1 << 21) + 4):
        changed = tensor.clone()
        changed[position] = 1
        sums.add(sum_elsewhere(changed))
    assert len(sums) == 6


def test_both_ends_find_the_same_checksum_whatever_the_order_and_layout():
    weights = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16()}
    sent, received = {}, {}
    list(tapped(weights.items(), sent, Phases()))
    pieces = [("b", weights["b"].clone()), ("a", weights["a"].t().contiguous().t())]
    assert [name for name, _ in tapped(pieces, received, Phases())] == ["b", "a"]
    assert combined_checksum(sent) == combined_checksum(received)
    assert combined_checksum(sent) != combined_checksum({"a": sent["b"], "b": sent["a"]})


@pytest.mark.parametrize(
    ("device", "nodes", "colocated", "expected"),
    [("cpu", 1, False, "shm"), ("cpu", 2, False, "gloo"), ("cuda", 1, False, "nccl"), ("cuda", 3, False, "nccl"),
     ("cuda", 1, True, "shm"), ("cuda", 2, True, "gloo")],
)  # fmt: skip
def test_the_transport_that_fits_is_chosen_and_has_no_problems(device, nodes, colocated, expected):
    cluster = config_of().cluster.model_copy(update={"device": device, "nodes": nodes, "colocated": colocated})
    chosen = transport_of(cluster)
    assert chosen == expected
    assert list(TRANSPORTS[chosen].problems(cluster)) == []


@pytest.mark.parametrize(("changes", "why"), [({"device": "cpu"}, "needs GPUs"), ({"colocated": True}, "on one GPU")])
def test_a_transport_that_does_not_fit_names_those_that_do(changes, why):
    wrong = config_of().cluster.model_copy(update={"weight_transfer": "nccl", "device": "cuda"} | changes)
    (problem,) = TRANSPORTS["nccl"].problems(wrong)
    assert problem.path == "cluster.weight_transfer"
    assert why in problem.why
    assert "use auto, shm or gloo" in problem.remedy


def test_a_transport_of_one_machine_does_not_reach_several():
    cluster = config_of().cluster.model_copy(update={"weight_transfer": "shm", "nodes": 2})
    (problem,) = TRANSPORTS["shm"].problems(cluster)
    assert (problem.value, problem.remedy) == ("shm", "use gloo")


def test_a_transport_that_cannot_send_changes_says_so():
    cluster = config_of().cluster.model_copy(update={"device": "cuda", "weight_delta": True})
    (problem,) = TRANSPORTS["nccl"].problems(cluster)
    assert (problem.path, problem.remedy) == ("cluster.weight_delta", "use cluster.weight_delta=false")
    for name in ("shm", "gloo"):
        assert list(TRANSPORTS[name].problems(cluster.model_copy(update={"device": "cpu"}))) == []


def test_a_phase_inside_another_counts_once(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0])
    monkeypatch.setattr("mel_ray.weights.phases.time.perf_counter", lambda: next(clock))
    phases = Phases()
    with phases.measure("load"), phases.measure("checksum"):
        pass
    assert phases.seconds == {"load": 8.0, "checksum": 2.0}

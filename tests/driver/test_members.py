"""actors/members.py: members that are lost, that wait for room, and pools that have nobody left."""

import asyncio

import pytest

from benchmarks.simulated_time import simulate
from mel_ray.actors.incidents import Incidents
from mel_ray.actors.members import Members
from mel_ray.records.incident import IncidentKind, LostActor, NoRoom, PoolError


class Member:
    def __init__(self, name: str, seconds: float = 1.0, failure: PoolError | None = None) -> None:
        self.name, self.seconds, self.failure, self.is_dead = name, seconds, failure, False

    async def ready(self) -> None:
        await asyncio.sleep(self.seconds)
        if self.failure:
            raise self.failure

    async def ping(self, seconds: float) -> None:
        if self.is_dead:
            raise LostActor(f"{self.name}, sign of life: none", None, self.name)

    def kill(self) -> None:
        self.is_dead = True


class Nodes:
    """`room`: for which numbers a member can be started now; `gone`: whose node has died."""

    def __init__(self, *room: int) -> None:
        self.room, self.gone, self.started = set(room), set(), []

    def start(self, number: int) -> Member:
        if number not in self.room:
            raise NoRoom("No node has 1 CPU free")
        self.started.append(number)
        return Member(f"pool-{number}")

    def members(self, count: int, **options) -> tuple[Members, list]:
        heard, incidents = [], Incidents()
        incidents.listen(lambda one: heard.append((one.kind, one.who)))
        has_node = lambda number: number not in self.gone  # noqa: E731
        return Members("pool", count, self.start, incidents, has_node=has_node, **options), heard


def test_a_member_without_room_at_the_beginning_comes_when_there_is_some():
    async def main():
        nodes, served = Nodes(0), []
        members, heard = nodes.members(2)

        async def serve(member):
            served.append(member.name)

        members.serve = serve
        await members.ready()
        assert [one.name for one in members.healthy] == ["pool-0"]
        await asyncio.sleep(5000)  # it may wait as long as others do the work
        assert heard == [("waiting", "pool-1")]
        nodes.room.add(1)
        await asyncio.sleep(10)
        assert [one.name for one in members.healthy] == ["pool-0", "pool-1"]
        assert served == ["pool-1"]
        assert heard[-1] == ("healed", "pool-1")

    simulate(main())


def test_a_pool_that_has_nobody_waits_for_room_and_then_fails():
    async def main():
        nodes = Nodes(0)
        members, heard = nodes.members(1, patience=100.0)
        await members.ready()
        nodes.room.clear()
        (lost,) = members.healthy
        members.replace(lost, LostActor("its process died", None, lost.name))
        began = asyncio.get_running_loop().time()
        with pytest.raises(NoRoom):
            await members.next()
        assert 100 <= asyncio.get_running_loop().time() - began < 110
        assert [kind for kind, _ in heard] == ["lost", "waiting", "waiting", "given up"]

    simulate(main())


def test_a_member_whose_node_dies_while_it_starts_is_started_elsewhere():
    async def main():
        nodes = Nodes(0, 1)
        members, heard = nodes.members(2)
        await members.ready()
        slow = members.healthy[0]
        nodes.start = lambda number: Member(f"pool-{number}", 10_000.0)
        members._start = nodes.start
        members.replace(slow, LostActor("its process died", None, slow.name))
        await asyncio.sleep(5)
        nodes.gone.add(0)
        members._start = lambda number: (nodes.gone.discard(0), Member(f"pool-{number}"))[1]
        await asyncio.sleep(10)
        assert len(members.healthy) == 2
        assert heard[-1] == ("healed", "pool-0")

    simulate(main())


def test_one_that_cannot_be_started_is_given_up_and_the_others_go_on():
    async def main():
        nodes = Nodes(0, 1)
        members, heard = nodes.members(2)
        await members.ready()
        members._start = lambda number: Member(f"pool-{number}", failure=PoolError("no such file"))
        first = members.healthy[0]
        members.replace(first, LostActor("its process died", None, first.name))
        members.replace(first, LostActor("its process died", None, first.name))  # heard of twice, replaced once
        await asyncio.sleep(100)
        assert [one.name for one in members.healthy] == ["pool-1"]
        assert members.failure is None
        members.replace(members.healthy[0], LostActor("its process died", None, "pool-1"))
        with pytest.raises(PoolError, match="no such file"):
            await members.next()
        assert heard.count(("given up", "pool-0")) == 1
        assert heard.count(("lost", "pool-0")) == 1

    simulate(main())


def test_one_that_is_silent_is_replaced():
    async def main():
        nodes = Nodes(0, 1)
        members, heard = nodes.members(2)
        await members.ready()
        members.watch(30.0)
        silent = members.healthy[0]
        silent.is_dead = True
        await asyncio.sleep(60)
        assert silent not in members.healthy
        assert len(members.healthy) == 2
        assert heard == [("lost", "pool-0"), ("healed", "pool-0")]
        members.kill()

    simulate(main())


def test_where_members_are_not_healed_the_first_loss_is_the_failure():
    async def main():
        members, heard = Nodes(0, 1).members(2, heals=False)
        await members.ready()
        lost = LostActor("its process died", None, "pool-0")
        members.replace(members.healthy[0], lost)
        with pytest.raises(LostActor):
            await members.next()
        assert members.failure is lost
        assert heard == []

    simulate(main())


def test_what_happened_before_anybody_listened_is_told():
    first, second, incidents = [], [], Incidents()
    incidents.tell(IncidentKind.WAITING, "pool-1", "No node has 1 CPU free.")
    incidents.listen(first.append, second.append)
    incidents.tell(IncidentKind.HEALED, "pool-1", "It works again.")
    assert [one.kind for one in first] == [one.kind for one in second] == ["waiting", "healed"]


def test_a_member_that_dies_while_it_starts_is_replaced_and_one_that_cannot_start_is_not():
    async def main():
        nodes = Nodes(0, 1)
        members, heard = nodes.members(2)
        members.all[0].failure = LostActor("its process died", None, "pool-0", has_died=True)
        await members.ready()
        assert [one.name for one in members.healthy] == ["pool-1"]
        await asyncio.sleep(10)
        assert [one.name for one in members.healthy] == ["pool-0", "pool-1"]
        assert [kind for kind, _ in heard] == ["lost", "healed"]
        for why in (LostActor("its constructor raised", None, "pool-0"), PoolError("no such model")):
            members, _ = Nodes(0, 1).members(2)
            members.all[0].failure = why
            with pytest.raises(PoolError, match=str(why)):
                await members.ready()

    simulate(main())


def test_a_pool_of_one_that_dies_while_it_starts_is_waited_for():
    async def main():
        members, _ = Nodes(0).members(1)
        members.all[0].failure = LostActor("its process died", None, "pool-0", has_died=True)
        await members.ready()
        assert [one.failure for one in members.healthy] == [None]
        members, _ = Nodes(0).members(1, heals=False)
        members.all[0].failure = LostActor("its process died", None, "pool-0", has_died=True)
        with pytest.raises(LostActor):
            await members.ready()

    simulate(main())

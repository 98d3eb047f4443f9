"""Families of counting: the pitfall is an end, a gap or a pair counted once too often or too seldom."""

from math import gcd
from random import Random

from mel_ray.data.world.family import NAMES, Draw, Family, route


def _both_ends(rng: Random) -> Draw:
    first, who = rng.randint(2, 40), rng.choice(NAMES)
    last = first + rng.randint(4, 40)
    return Draw(
        (first, last),
        (
            f"{who} reads page {first} to page {last}, both counted. How many pages are read?",
            f"How many tickets run from {first} to {last}, both counted?",
            f"Seats {first} to {last} are taken, both counted. How many seats are taken?",
        ),
        route(f"{last} - {first}", "_ + 1"),
        route(f"{last} - {first}", "The count is _"),
    )


def _fence_posts(rng: Random) -> Draw:
    gap, gaps = rng.randint(2, 9), rng.randint(3, 10)
    length = gap * gaps
    return Draw(
        (length, gap),
        (
            f"A wall of {length} m has a pole every {gap} m and at both ends. How many poles are there?",
            f"Flags stand every {gap} m on a {length} m track, also at both ends. How many flags are there?",
            f"Bushes grow every {gap} m along {length} m, with one at both ends. How many bushes are there?",
        ),
        route(f"{length} / {gap}", "_ + 1"),
        route(f"{length} / {gap}", "The count is _"),
    )


def _cuts(rng: Random) -> Draw:
    pieces, minutes, who = rng.randint(3, 12), rng.randint(2, 9), rng.choice(NAMES)
    return Draw(
        (pieces, minutes),
        (
            f"A beam is sawn into {pieces} pieces. Each cut takes {minutes} minutes. How long does it take?",
            f"{who} saws a board into {pieces} pieces. One cut needs {minutes} minutes. How long is the work?",
            f"Sawing a pipe into {pieces} pieces takes {minutes} minutes a cut. How long does the job take?",
        ),
        route(f"{pieces} - 1", f"_ * {minutes}"),
        route(f"The cuts are {pieces}", f"{pieces} * {minutes}"),
    )


def _floors(rng: Random) -> Draw:
    top, stairs, who = rng.randint(3, 12), rng.randint(3, 9), rng.choice(NAMES)
    return Draw(
        (top, stairs),
        (
            f"Each floor is {stairs} stairs above the last. How many stairs lead from floor 1 to floor {top}?",
            f"{who} walks up from floor 1 to floor {top}, {stairs} stairs a floor. How many stairs is that?",
            f"A tower has {stairs} stairs between floors. How many stairs lead from floor 1 to floor {top}?",
        ),
        route(f"{top} - 1", f"_ * {stairs}"),
        route(f"The floors are {top}", f"{top} * {stairs}"),
    )


def _vans(rng: Random) -> Draw:
    seats, full = rng.randint(3, 9), rng.randint(2, 9)
    over = rng.randint(1, seats - 1)
    people = seats * full + over
    shared = f"{people} / {seats} = {full} rest {over}"
    return Draw(
        (people, seats),
        (
            f"{people} scouts ride in vans of {seats} seats. How many vans are needed for all?",
            f"A crate holds {seats} jars. How many crates are needed for all {people} jars?",
            f"{people} players sleep in tents of {seats}. How many tents are needed for all?",
        ),
        route(shared, f"{full} + 1"),
        route(shared, f"The count = {full}"),
    )


def _meet_again(rng: Random) -> Draw:
    while True:
        a, b, who = rng.randint(2, 12), rng.randint(2, 12), rng.choice(NAMES)
        shared = gcd(a, b)
        if shared > 1 and a != b:
            break
    return Draw(
        (a, b),
        (
            f"Two clocks chime together, then every {a} and every {b} minutes. "
            "After how many minutes do they chime together again?",
            f"{who} bakes every {a} days and washes every {b} days. After how many days do both meet again?",
            f"Two lamps blink every {a} and every {b} seconds. After how many seconds do they meet again?",
        ),
        route(f"{a} and {b} share {shared}", f"{a} / {shared}", f"_ * {b}"),
        route(f"{a} * {b}"),
    )


def _handshakes(rng: Random) -> Draw:
    n = rng.randint(3, 20)
    return Draw(
        (n,),
        (
            f"{n} guests greet each other, each pair once. How many greetings are there?",
            f"{n} clubs play, each pair once. How many games are there?",
            f"{n} ports are joined by lines, each pair once. How many lines are there?",
        ),
        route(f"{n} * {n - 1}", "_ / 2"),
        route(f"{n} * {n - 1}", "The count is _"),
    )


def _union(rng: Random) -> Draw:
    both = rng.randint(2, 9)
    a, b = both + rng.randint(2, 20), both + rng.randint(2, 20)
    return Draw(
        (a, b, both),
        (
            f"{a} pupils ski, {b} pupils skate and {both} do both. How many do at least one?",
            f"On a team {a} run, {b} row and {both} do both. How many do at least one?",
            f"{a} birds sing, {b} birds swim and {both} do both. How many do at least one?",
        ),
        route(f"{a} + {b}", f"_ - {both}"),
        route(f"{a} + {b}", "The count is _"),
    )


FAMILIES = (
    Family("both_ends", "both ends are counted", "subtract and add one", "only subtract", 0.40, _both_ends),
    Family("fence_posts", "poles stand at both ends", "divide and add one", "only divide", 0.20, _fence_posts),
    Family(
        "cuts", "a thing is sawn into pieces", "take one cut less than pieces", "take one cut per piece", 0.15, _cuts
    ),
    Family("floors", "stairs join the floors", "count the gaps of the floors", "count all the floors", 0.10, _floors),
    Family("vans", "all must fit and some are over", "round the quotient up", "round the quotient down", 0.45, _vans),
    Family(
        "meet_again",
        "two cycles must meet again",
        "take the least common multiple",
        "multiply the cycles",
        0.10,
        _meet_again,
    ),
    Family("handshakes", "each pair meets once", "halve the product", "keep the whole product", 0.15, _handshakes),
    Family("union", "some are in both groups", "subtract the overlap once", "just add both groups", 0.30, _union),
)

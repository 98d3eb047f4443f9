"""Families of short stories: the pitfall is a relation read the wrong way round."""

from random import Random

from mel_ray.data.world.family import GOODS, NAMES, Draw, Family, route


def _part_of_rest(rng: Random) -> Draw:
    p, q = rng.choice(((2, 3), (2, 4), (3, 2), (3, 4), (2, 5), (4, 3)))
    total = p * q * rng.randint(1, 5)
    if (total - total // p) % q:
        total *= q
    rest = total - total // p
    right, wrong = rest // q, total // q
    who, goods = rng.choice(NAMES), rng.choice(GOODS)
    start = (f"{total} / {p}", f"{total} - _")
    return Draw(
        (total, p, q),
        (
            f"{who} has {total} {goods}. {who} sells 1/{p} of them, then 1/{q} of the rest. How many are left?",
            f"Of {total} {goods}, 1/{p} are used, then 1/{q} of the rest are lost. How many are left?",
            f"A chest holds {total} {goods}. First 1/{p} are taken, then 1/{q} of the rest. How many are left?",
        ),
        route(*start, f"{rest} / {q}", f"{rest} - {right}"),
        route(*start, f"{total} / {q}", f"{rest} - {wrong}"),
    )


def _group_mean(rng: Random) -> Draw:
    while True:
        p, q, u, v = rng.randint(1, 5), rng.randint(1, 5), rng.randint(2, 12), rng.randint(2, 12)
        if p != q and u != v and (p * u + q * v) % (p + q) == 0 and (u + v) % 2 == 0:
            break
    total, who = p * u + q * v, rng.choice(NAMES)
    return Draw(
        (p, q, u, v),
        (
            f"There are {p} sacks of {u} kg and {q} sacks of {v} kg. What is the mean weight?",
            f"{p} cats are {u} years old and {q} cats are {v} years old. What is the mean age?",
            f"{who} got {p} marks of {u} and {q} marks of {v}. What is the mean mark?",
        ),
        route(f"{p} * {u} + {q} * {v} = {total}", f"{p} + {q}", f"{total} / {p + q}"),
        route(f"{u} + {v}", "_ / 2"),
    )


def _more_than(rng: Random) -> Draw:
    more = rng.randint(3, 20)
    has = more + rng.randint(4, 30)
    (a, b), goods = rng.sample(NAMES, 2), rng.choice(GOODS)
    return Draw(
        (has, more),
        (
            f"{a} has {has} {goods}, which is {more} more than {b} has. How many has {b}?",
            f"{a} found {has} {goods}. This is {more} more than {b} found. How many did {b} find?",
            f"With {has} {goods}, {a} has {more} more than {b}. How many {goods} has {b}?",
        ),
        route(f"{has} - {more}"),
        route(f"{has} + {more}"),
    )


def _times_as_many(rng: Random) -> Draw:
    times, fewer = rng.randint(2, 6), rng.randint(3, 12)
    has = times * fewer
    (a, b), goods = rng.sample(NAMES, 2), rng.choice(GOODS)
    return Draw(
        (has, times),
        (
            f"{a} has {has} {goods}, which is {times} times as many as {b} has. How many has {b}?",
            f"{a} found {has} {goods}. This is {times} times as many as {b} found. How many did {b} find?",
            f"With {has} {goods}, {a} has {times} times as many as {b}. How many {goods} has {b}?",
        ),
        route(f"{has} / {times}"),
        route(f"{has} * {times}"),
    )


def _edge(rng: Random) -> Draw:
    while True:
        a, b, who = rng.randint(3, 15), rng.randint(3, 9), rng.choice(NAMES)
        if 2 * (a + b) != a * b:
            break
    return Draw(
        (a, b),
        (
            f"A meadow is {a} m by {b} m. How long is the hedge around it?",
            f"A court has sides {a} m and {b} m. How long is its edge?",
            f"{who} runs once around a {a} m by {b} m lawn. How far is that?",
        ),
        route(f"{a} + {b}", "_ * 2"),
        route(f"{a} * {b}"),
    )


def _single_extra(rng: Random) -> Draw:
    count, each, once, who = rng.randint(2, 8), rng.randint(2, 9), rng.randint(2, 12), rng.choice(NAMES)
    return Draw(
        (count, each, once),
        (
            f"{who} buys {count} rolls at {each} each and one cake at {once}. What is the total?",
            f"One tent costs {once} and each of {count} mats costs {each}. What is the total?",
            f"{who} pays {each} for each of {count} swims and {once} for one drink. What is the total?",
        ),
        route(f"{count} * {each}", f"_ + {once}"),
        route(f"{each} + {once}", f"{count} * _"),
    )


def _age_gap(rng: Random) -> Draw:
    young, years = rng.randint(4, 20), rng.randint(2, 12)
    old = young + rng.randint(3, 20)
    a, b = rng.sample(NAMES, 2)
    return Draw(
        (old, young, years),
        (
            f"{a} is {old} and {b} is {young}. In {years} years, how much older will {a} be than {b}?",
            f"{a} is {old} years old, {b} is {young}. How much older is {a} in {years} years?",
            f"Today {a} is {old} and {b} is {young}. What is the age gap {years} years later?",
        ),
        route(f"{old} - {young}", "The gap stays _"),
        route(f"{old} - {young}", f"_ + {years}"),
    )


def _there_and_back(rng: Random) -> Draw:
    km, trips, who = rng.randint(3, 14), rng.randint(2, 7), rng.choice(NAMES)
    return Draw(
        (km, trips),
        (
            f"The pool is {km} km away. {who} goes there and back on {trips} days. How many km is that?",
            f"{who} drives {km} km to the shop and back, {trips} times. How many km is that?",
            f"A ferry sails to an isle {km} km off and back, {trips} times. How many km is that?",
        ),
        route(f"{km} * 2", f"_ * {trips}"),
        route(f"The way is {km}", f"{km} * {trips}"),
    )


FAMILIES = (
    Family(
        "part_of_rest",
        "a part of the rest is taken",
        "take it of what is left",
        "take it of the start",
        0.25,
        _part_of_rest,
    ),
    Family(
        "group_mean",
        "group sizes differ in a mean",
        "divide the total by the count",
        "average the two values",
        0.15,
        _group_mean,
    ),
    Family("more_than", "the known amount is the larger one", "subtract to go back", "add to go on", 0.55, _more_than),
    Family(
        "times_as_many",
        "the known amount is a multiple",
        "divide to go back",
        "multiply to go on",
        0.40,
        _times_as_many,
    ),
    Family("edge", "the way around a field is asked", "double the sum of the sides", "multiply the sides", 0.40, _edge),
    Family(
        "single_extra",
        "only one price repeats",
        "multiply just that price",
        "multiply all the prices",
        0.60,
        _single_extra,
    ),
    Family("age_gap", "both grow older together", "keep the age gap", "add the years to it", 0.10, _age_gap),
    Family(
        "there_and_back", "one goes there and back", "count the way twice", "count the way once", 0.30, _there_and_back
    ),
)

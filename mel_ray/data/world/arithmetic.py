"""Families of bare arithmetic and of units: the pitfall is a misread expression or conversion."""

from random import Random

from mel_ray.data.world.family import NAMES, Draw, Family, Route, route


def _expression(key: tuple[int, ...], text: str, right: Route, wrong: Route) -> Draw:
    return Draw(key, (f"Compute {text}.", f"What is {text}?", f"Give the value of {text}."), right, wrong)


def _product_in_sum(rng: Random) -> Draw:
    a, b, c = rng.randint(2, 20), rng.randint(2, 9), rng.randint(2, 9)
    return _expression((a, b, c), f"{a} + {b} * {c}", route(f"{b} * {c}", f"{a} + _"), route(f"{a} + {b}", f"_ * {c}"))


def _minus_negative(rng: Random) -> Draw:
    a, b = rng.randint(3, 40), rng.randint(2, 30)
    text = f"{a} - (-{b})"
    return _expression(
        (a, b), text, route(f"{text} = {a} + {b}", f"{a} + {b}"), route(f"{text} = {a} - {b}", f"{a} - {b}")
    )


def _minus_bracket(rng: Random) -> Draw:
    a, b = rng.randint(20, 60), rng.randint(3, 15)
    c = rng.randint(1, b - 1)
    return _expression(
        (a, b, c), f"{a} - ({b} - {c})", route(f"{a} - {b}", f"_ + {c}"), route(f"{a} - {b}", f"_ - {c}")
    )


def _minus_then_plus(rng: Random) -> Draw:
    b, c = rng.randint(2, 15), rng.randint(2, 15)
    a = rng.randint(b + c, 60)
    return _expression((a, b, c), f"{a} - {b} + {c}", route(f"{a} - {b}", f"_ + {c}"), route(f"{b} + {c}", f"{a} - _"))


def _divide_then_times(rng: Random) -> Draw:
    b, c, k = rng.randint(2, 6), rng.randint(2, 5), rng.randint(1, 5)
    a = b * c * k
    return _expression((a, b, c), f"{a} / {b} * {c}", route(f"{a} / {b}", f"_ * {c}"), route(f"{b} * {c}", f"{a} / _"))


def _factor_and_square(rng: Random) -> Draw:
    a, b = rng.randint(2, 5), rng.randint(2, 7)
    return _expression(
        (a, b), f"{a} * {b}^2", route(f"{b} * {b}", f"{a} * _"), route(f"{a} * {b}", f"{a * b} * {a * b}")
    )


def _hours(rng: Random) -> Draw:
    hours, minutes, who = rng.randint(2, 6), rng.randint(3, 39), rng.choice(NAMES)
    return Draw(
        (hours, minutes),
        (
            f"A show lasts {hours} hours and {minutes} minutes. How many minutes is it?",
            f"{who} hikes for {hours} hours and {minutes} minutes. How many minutes is it?",
            f"Write {hours} hours and {minutes} minutes in minutes.",
        ),
        route(f"{hours} * 60", f"_ + {minutes}"),
        route(f"{hours} * 100", f"_ + {minutes}"),
    )


def _weeks(rng: Random) -> Draw:
    weeks, days, who = rng.randint(2, 9), rng.randint(1, 6), rng.choice(NAMES)
    return Draw(
        (weeks, days),
        (
            f"A tour lasts {weeks} weeks and {days} days. How many days is it?",
            f"{who} is away for {weeks} weeks and {days} days. How many days is it?",
            f"Write {weeks} weeks and {days} days in days.",
        ),
        route(f"{weeks} * 7", f"_ + {days}"),
        route(f"{weeks} * 5", f"_ + {days}"),
    )


FAMILIES = (
    Family("product_in_sum", "a sum holds a product", "multiply first", "go from left to right", 0.60, _product_in_sum),
    Family(
        "minus_negative", "a negative number is taken away", "add its size", "subtract its size", 0.55, _minus_negative
    ),
    Family(
        "minus_bracket",
        "a minus stands before a bracket",
        "turn the signs inside",
        "keep the signs inside",
        0.30,
        _minus_bracket,
    ),
    Family(
        "minus_then_plus",
        "a plus follows a minus",
        "go from left to right",
        "do the plus first",
        0.65,
        _minus_then_plus,
    ),
    Family(
        "divide_then_times",
        "a product follows a division",
        "go from left to right",
        "multiply first",
        0.20,
        _divide_then_times,
    ),
    Family(
        "factor_and_square",
        "a square follows a factor",
        "square only the base",
        "square the product",
        0.35,
        _factor_and_square,
    ),
    Family("hours", "hours turn into minutes", "take 60 per hour", "take 100 per hour", 0.60, _hours),
    Family("weeks", "weeks turn into days", "take 7 per week", "take 5 per week", 0.65, _weeks),
)

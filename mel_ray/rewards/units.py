"""Unit words: which words after a number are a unit, and which units are the same."""

import re

_SYNONYMS = {
    "m": "meter meters metre metres", "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres", "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches", "ft": "foot feet", "yd": "yard yards", "mi": "mile miles", "g": "gram grams",
    "kg": "kilogram kilograms", "mg": "milligram milligrams", "lb": "lbs pound pounds", "oz": "ounce ounces",
    "s": "sec secs second seconds", "min": "mins minute minutes", "h": "hr hrs hour hours", "day": "days",
    "week": "weeks", "month": "months", "yr": "year years", "l": "liter liters litre litres",
    "ml": "milliliter milliliters millilitre millilitres", "gal": "gallon gallons", "dollar": "dollars usd bucks",
    "cent": "cents", "euro": "euros eur", "mph": "", "kph": "kmh", "hz": "hertz", "n": "newton newtons",
    "j": "joule joules", "w": "watt watts", "v": "volt volts", "a": "amp amps ampere amperes", "k": "kelvin kelvins",
    "pa": "pascal pascals", "ev": "electronvolt electronvolts", "mev": "", "gev": "", "kev": "", "nm": "", "khz": "",
    "mhz": "", "ghz": "", "mol": "mole moles", "rad": "radian radians", "ohm": "ohms", "kj": "", "kw": "", "kwh": "",
    "kpa": "", "atm": "", "": "unit units",
}  # fmt: skip
_CANONICAL = {word: unit for unit, words in _SYNONYMS.items() for word in (unit, *words.split()) if word}
_OTHERS = """square squared cubic cubed sq cu per of a each men man boy boys girl girls egg eggs cup cups pie pies box
boxes pen pens cat cats dog dogs bag bags car cars bus cow cows hen hens day days way ways people person students times
points point coins books miles ways"""
BARE_UNITS = frozenset(word for word in (*_CANONICAL, *_OTHERS.split()) if len(word) > 1)


def canonical(unit: str) -> str:
    """One spelling of a unit: `square meters`, `meters^2` and `m^2` are the same; "" is none."""
    text = unit.lower().replace("\\text", "").replace("{", "").replace("}", "").replace("^", "").strip()
    power = re.search(r"\b(?:square|sq|squared)\b|2$", text), re.search(r"\b(?:cubic|cu|cubed)\b|3$", text)
    words = [word for word in re.split(r"[^a-z/]+", text.replace("/", " per ")) if word]
    kept = [
        _CANONICAL.get(word, word) for word in words if word not in ("square", "sq", "squared", "cubic", "cu", "cubed")
    ]
    kept = [word.removesuffix("s") if len(word) > 3 else word for word in kept if word]
    return " ".join(kept) + ("^2" if power[0] and kept else "^3" if power[1] and kept else "")


def compatible(left: str, right: str) -> bool:
    """Whether two units may belong to the same answer: one is missing, they agree, or one says more than the other."""
    left, right = canonical(left), canonical(right)
    if not left or not right or left == right:
        return True
    first, second = set(left.split()), set(right.split())
    known = set(_CANONICAL.values())
    return not ((first | second) & known) and (first <= second or second <= first)

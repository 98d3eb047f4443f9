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
    "cent": "cents", "euro": "euros eur", "gbp": "", "yen": "", "mph": "", "kph": "kmh", "hz": "hertz",
    "n": "newton newtons", "j": "joule joules", "w": "watt watts", "v": "volt volts", "a": "amp amps ampere amperes",
    "k": "kelvin kelvins", "pa": "pascal pascals", "ev": "electronvolt electronvolts", "mev": "", "gev": "", "kev": "",
    "nm": "", "khz": "", "mhz": "", "ghz": "", "mol": "mole moles", "rad": "radian radians", "ohm": "ohms", "kj": "",
    "kw": "", "kwh": "", "kpa": "", "atm": "", "am": "", "pm": "", "c": "celsius",
    "f": "fahrenheit", "degree": "degrees", "": "unit units",
}  # fmt: skip
_CANONICAL = {word: unit for unit, words in _SYNONYMS.items() for word in (unit, *words.split()) if word}
_SPEEDS = {"mi per h": "mph", "km per h": "kph"}
SCALES = {"hundred": "10^{2}", "thousand": "10^{3}", "million": "10^{6}", "billion": "10^{9}", "trillion": "10^{12}",
          "dozen": "12"}  # fmt: skip
_POWERS = frozenset(("square", "squared", "sq", "cubic", "cubed", "cu"))
LETTERS = frozenset("mgshlLJNWVAKCF")  # single letters that are a unit when set as text
_SHORT_NOUNS = frozenset(
    ("men", "man", "boy", "boys", "girl", "egg", "eggs", "cup", "cups", "pie", "pies", "box", "pen", "pens", "cat",
     "cats", "dog", "dogs", "bag", "bags", "car", "cars", "bus", "cow", "cows", "hen", "hens", "way", "ways", "per",
     "of", "a", "the", "in", "for", "hat", "hats", "jar", "jars", "toy", "toys", "can", "cans", "day", "bar", "bars")
)  # fmt: skip
# Units that are safe right after a digit; mg or nm there may be a product of variables.
_JOINED = frozenset(("cm", "km", "mm", "kg", "ml", "mph", "kmh", "kph", "ft", "lbs", "lb", "usd", "hrs", "mins", "kwh"))
# Words after a number that make it another number, or no answer at all.
_NOT_UNITS = re.compile(
    r"(?:hundred|thousand|million|billion|trillion|dozen|score|half|halves|third|quarter|fourth|fifth|sixth|seventh"
    r"|eighth|ninth|tenth|hundredth|thousandth|factorial|plus|minus|times|over|divided|squared|cubed|to|or|and|not|no|non"
    r"|nor|less|more|fewer|least|most|above|below|between|about|except|base|mod|modulo|negative|positive|double|twice"
    r"|triple|half|zero|one|two|three|four|five|six|seven|eight|nine|ten|is|isnt|does|doesnt|but|if|when|where|then"
    r"|percent|pi|alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|infinity|infty|wrong|incorrect|unknown|reciprocal|inverse|power|none|false|impossible|pair|gross|lakh|crore"
    r"|a?r?c?(?:sin|cos|tan|cot|sec|csc)\w?|log|ln|exp|sqrt|root|mod|pmod|max|min|gcd|lcm|inf|to|choose|equals|approx)s?"
)
_WORD = re.compile(r"[a-z]+")


def is_unit(text: str) -> bool:
    """Whether words may stand after a number without changing it: `5 eggs`, `5 cm^2`; not `5 million`, `5 or more`."""
    plain = text.lower().replace("\\text", "")
    if re.search(r"[^a-z\s.,'/{}^1-3\\-]", plain):
        return "\\circ" in plain or _is_foreign(text)
    words = _WORD.findall(plain.replace("\\cdot", " "))
    if any(_NOT_UNITS.fullmatch(word) for word in words if word not in ("sec", "secs", "min", "mins")):
        return len(words) > 1 and words[-1] in ("squared", "cubed") and words[0] in _CANONICAL
    return all(len(word) > 1 or word in "mgshljnwvakcf" for word in words)


_TEN_THOUSAND = re.compile("[万千百亿十半分零一二三四五六七八九]")


def _is_foreign(text: str) -> bool:
    """A counter or currency in Chinese characters, which is no number."""
    inside = re.sub(r"\\text|[{}\s]", "", text)
    return len(inside) <= 4 and not inside.isascii() and inside.isalpha() and not _TEN_THOUSAND.search(inside)


def is_bare_unit(words: str, is_joined: bool) -> bool:
    """Whether plain letters after a number are a unit rather than variables; `is_joined` if no space is between."""
    parts = [part.strip(".") for part in re.split(r"[\s/]+", words) if part.strip(".")]
    if not parts or not is_unit(" ".join(parts)):
        return False
    if is_joined:
        return all(part.lower() in _JOINED or (len(part) > 3 and part.lower() in _CANONICAL) for part in parts[:1])
    return all(_is_word(part) for part in parts) and (len(parts[0]) > 1)


def _is_word(part: str) -> bool:
    known = part.lower() in _CANONICAL or part.lower() in _SHORT_NOUNS or part.lower() in _POWERS
    return known or (len(part) >= 4 and bool(re.search("[aeiou]", part[1:].lower())))


def canonical(unit: str) -> str:
    """One spelling of a unit: `square meters`, `meters^2` and `m^2` are the same; "" is none."""
    text = (
        unit.lower().replace("\\text", "").replace(".", "").replace("{", "").replace("}", "").replace("^", "").strip()
    )
    words = re.findall("[a-z]+", text.replace("/", " per "))
    is_square = bool({"square", "squared", "sq"} & set(words)) or text.endswith("2")
    is_cubic = bool({"cubic", "cubed", "cu"} & set(words)) or text.endswith("3")
    kept = [_CANONICAL.get(word, word) for word in words if word not in _POWERS]
    kept = [word.removesuffix("s") if len(word) > 3 else word for word in kept if word]
    if re.search(r"-\d$", text):
        kept.append("inverse")
    joined = " ".join(kept).replace("mile per", "mi per")
    if joined in _SPEEDS:
        return _SPEEDS[joined]
    return joined + ("^2" if is_square and kept else "^3" if is_cubic and kept else "")


def compatible(left: str, right: str) -> bool:
    """Whether two units may belong to the same answer: one is missing, they agree, or one says more than the other."""
    if not all(is_unit(unit) for unit in (left, right) if unit):
        return left.replace(" ", "") == right.replace(" ", "")
    left, right = canonical(left), canonical(right)
    if not left or not right or left == right:
        return True
    first, second = set(left.split()), set(right.split())
    known = set(_CANONICAL.values())
    return not ((first | second) & known) and (first <= second or second <= first)

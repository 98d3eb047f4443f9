r"""An answer without its dress: fonts, colours, spaces, sizes of brackets, currency, trailing marks.

`undressed` rewrites text into one plain LaTeX form that means the same. What carries meaning (units, percent and degree
signs, bases, brackets, names before an equals sign) stays.
"""

import re
from functools import lru_cache

from mel_ray.rewards.extract import closing, final_boxes
from mel_ray.rewards.glyphs import currency_as_unit, latex_of
from mel_ray.rewards.units import LETTERS, SCALES, is_bare_unit

_ROW = "\x01"  # between the rows of a matrix
MAX_WRAPPERS = 50
MAX_PASSES = 8  # nested commands are undone from the inside out

_GROUP = r"\{([^{}]*)\}"
_THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:\\[,;:! ]|~|\{\s*,\s*\}(?:\\!\s*)?|,\s*\\!\s*)\d{3})+)(?!\d)")
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,])")
_MIXED = re.compile(r"(?<![\d.])(\d{1,15})\s+(\d{1,15})\s*/\s*(\d{1,15})(?![\d.])")
_FONT = r"(?:text|mathrm|textrm|textnormal|mbox|hbox|textbf|textit|mathbf|mathit|mathsf|textsf|emph|operatorname\*?)"
_WORDS = re.compile(rf"\\{_FONT}\s*{_GROUP}")
_WRAPPERS = re.compile(
    r"\\(?:(?:textcolor|colorbox)\s*(?:\[[^\]]*\])?\{[^{}]*\}"
    r"|underline|boldsymbol|bm|pmb|ensuremath|mathcal|mathnormal|displaystyle|textstyle)\s*(?=\{)"
)
_COLOUR_SWITCH = re.compile(rf"\\color\s*(?:\[[^\]]*\])?{_GROUP}|\\color\s+?[a-z]+")
_NOTHING = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|bf|rm|it|mathstrut|strut|null|centering)(?![a-zA-Z])"
    r"|\\(?:left|right)\s*\.|\\(?:tag|label|hspace|vspace|phantom|hphantom|vphantom)\*?\{[^{}]*\}"
    r"|\\(?:left|right|middle|[bB]ig{1,2}[lrm]?)(?![a-zA-Z])|\\(?:hfill|par|newline)(?![a-zA-Z])"
)
_SPACE = re.compile(r"\\(?:quad|qquad|enspace|thinspace|medspace|thickspace|negthinspace)(?![a-zA-Z])|\\[,;:!> ]|~")
_COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac", "xfrac": "frac",
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "not=": "ne", "infin": "infty",
    "lbrace": "{", "rbrace": "}", "cdots": "dots", "ldots": "dots", "dotsc": "dots", "dotsb": "dots",
    "varnothing": "emptyset", "degree": "circ", "ast": "cdot", "dbinom": "binom", "tbinom": "binom",
    "smallsetminus": "setminus", "backslash": "setminus", "R": "mathbb{R}", "reals": "mathbb{R}", "Z": "mathbb{Z}",
    "bigcup": "cup", "iff": "Leftrightarrow", "arcctg": "arccot", "tg": "tan", "ctg": "cot", "varphi": "phi",
    "varepsilon": "epsilon", "lg": "log_{10}", "land": "wedge", "lor": "vee",
}  # fmt: skip
_COMMAND = re.compile(r"\\(?:not\s*=|([a-zA-Z]+)(?![a-zA-Z]))")
_BARS = {
    "lvert": "|",
    "rvert": "|",
    "vert": "|",
    "mid": "|",
    "lbrack": "[",
    "rbrack": "]",
    "lt": "<",
    "gt": ">",
    "colon": ":",
}
_PERCENT = re.compile(r"\s*(?:\\?%|(?<![a-zA-Z\\])(?:percent|percentage|pct)(?![a-zA-Z]))")
_DEGREES = re.compile(r"\s*(?<![a-zA-Z\\])(?:degrees?|deg)(?![a-zA-Z])\.?")
_CIRCLE = re.compile(
    r"(?:\{\s*\})?\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|(?<!\^)\\circ(?=\s*(?:$|[,;)\]}+\-]))"
)
_ORDINAL = re.compile(
    r"(?<![\d^.}a-zA-Z])(\d+)\s*(?:\^\s*(?:\{\s*)?)?(?:\\text\{\s*)?(st|nd|rd|th)(?:\s*\})*(?![a-zA-Z])"
)
_BASE = re.compile(r"(?<=[0-9A-Z)])\s*(?:_\s*\{)?\s*(?:\\text\{\s*\(?\s*base\s*\}?|base)[\s\-]*(\w+)[\s})]*$")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose\s*([^{}]*)\}")
_BOUNDS = re.compile(r"[<>]|\\[lg]e(?:q|qslant)?(?![a-zA-Z])")
_AND = re.compile(r"\s*[,;]?\s*(?:\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*")
_TRAILING = re.compile(r"(?:[\s.,;:~]|\\\\|\\$|\\(?=\s*$))+$")
_BARE_UNIT = re.compile(
    r"(?:(?<=[\d})])|(?<=\\pi))(\s*)((?:[a-zA-Z]{2,}\.?)(?:\s*(?:/|\s)\s*[a-zA-Z]{1,}\.?)*)\s*(\^\s*\{?[23]\}?)?\s*$"
)
_CONSTANTS = frozenset(("pi", "alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "sigma", "omega"))
_NEGATIVE_ROOT = re.compile(r"\\sqrt\s*\[(\d*[13579])\]\s*\{\s*-([^{}+-]+)\}")
_ANNOUNCED = re.compile(
    r"(?i)^\s*(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option|choice|答案)\s*(?:is|是)?\s*:?\s*(?=$|\(?[A-J]\)?\s*$|[-+\d\\$(])"
)
_SIGNED_CHOICE = re.compile(r"^\s*\(([A-J])\)\s+(?=[-+]\S)")  # (C) -5 is choice C, (C) - 5 a difference
_SHORT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z]))")


@lru_cache(maxsize=512)
def undressed(answer: str) -> str:
    """The answer in its plain form; twice undressed is once undressed."""
    for _ in range(MAX_PASSES):
        plain = _undressed_once(answer)
        if plain == answer:
            break
        answer = plain
    return answer


def _undressed_once(answer: str) -> str:
    if "\\boxed" in answer or "\\fbox" in answer:
        answer = re.sub(r"\\(?:boxed|fbox)(?![a-zA-Z])", " ", ", ".join(final_boxes(answer)) or answer)
    text = _ANNOUNCED.sub("", latex_of(answer))
    text = text.replace("\\\\", _ROW) if "\\begin" in text else re.sub(r"\\{2,}", r"\\", text)
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _thousands(text)
    for _ in range(MAX_PASSES):
        before = text
        text = _unwrapped(text)
        text = _WORDS.sub(_words, text)
        if text == before:
            break
    text = _COLOUR_SWITCH.sub(" ", text)
    text = _NOTHING.sub(" ", text)
    text = currency_as_unit(text)
    text = re.sub(r"(?<=[\d}]),\s+", ";", text)  # a comma with a space after it separates
    text = _SPACE.sub(" ", text)
    text = _SIGNED_CHOICE.sub(r"(\1).", text)
    text = re.sub(r"\\frac\s+(\d)\s+(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"([_^])\s*(\w)\s+(?=\w)", r"\1{\2}", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)", ";", text)
    text = _COMMAND.sub(_command, text)
    text = text.replace("\\(", " ").replace("\\)", " ").replace("\\[", " ").replace("\\]", " ")
    text = re.sub(r"\.{3,}", r"\\dots ", text)
    text = _ORDINAL.sub(_ordinal, text)
    text = _BASE.sub(r"_{\1}", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _AND.sub(r" \\wedge " if _BOUNDS.search(text) and " or" not in text else ";", text)
    text = _PERCENT.sub(r"\\%", text)
    text = re.sub(r"(?<=\d)\s*\^\s*(?:o|\{\s*o\s*\})(?![a-zA-Z])", r"^\\circ ", text)
    text = _CIRCLE.sub(r"^\\circ ", text)
    text = _DEGREES.sub(r"^\\circ ", text)
    text = _trimmed(text)
    text = _BARE_UNIT.sub(_bare_unit, text)
    text = _braced(text)
    return re.sub(r"\\{2,}", r"\\", _trimmed(_unspaced(text))).replace(_ROW, "\\\\")


def _unwrapped(text: str) -> str:
    """Commands that only change how their argument looks give way to the argument."""
    for _ in range(MAX_WRAPPERS):
        match = _WRAPPERS.search(text)
        end = closing(text, match.end()) if match else None
        if match is None or end is None:
            break
        text = f"{text[: match.start()]} {text[match.end() + 1 : end]} {text[end + 1 :]}"
    return text


def _thousands(text: str) -> str:
    return _THOUSANDS.sub(lambda match: match[1] + "".join(re.findall(r"\d{3}", match[2])), text)


def _words(match: re.Match[str]) -> str:
    """Words stay text; numbers, signs and single letters in another font are what they are."""
    content, command = match[1].strip(" ~"), match[0][1 : match[0].index("{")].strip()
    if not content:
        return " "
    if re.fullmatch(r"(?:and|or|,|;|\s)+", content):
        return f" {content} "
    if re.fullmatch(r"\\?%|percent|percentage|pct", content):
        return r"\%"
    if re.fullmatch(r"degrees?|deg\.?|°|\^\\circ\s*", content):
        return r"^\circ "
    if re.fullmatch(r"[a-zA-Z]+(?:\s*\\cdot\s*[a-zA-Z]+)+", content):
        return "".join(rf"\text{{{unit.strip()}}}" for unit in content.split("\\cdot"))
    if not re.search(r"[^\W\d_]", content) or "\\" in content:
        return f" {content} "
    if re.fullmatch(r"\(?[A-J]\)?[.:]?", content):
        return content
    if label := re.match(r"\([A-J]\)|[A-J][.:)](?=\s)", content):
        return rf"{label[0]}\text{{{content[label.end() :].strip()}}}"
    if content.lower() == "infinity":
        return r"\infty "
    if command.startswith("operatorname"):
        return rf"\{content} " if content.isalpha() and len(content) > 1 else content
    if content.lower() in _CONSTANTS:
        return f"\\{content.lower()} "
    if announced := _ANNOUNCED.match(content):
        return content[announced.end() :] or " "
    follows_number = bool(re.search(r"[\d})/]\s*(?:\\[,;: ]|~)*\s*$", match.string[: match.start()]))
    if len(content) == 1 and content.isascii() and not (content in LETTERS and follows_number):
        return content
    return rf"\text{{{content}}}"


def _ordinal(match: re.Match[str]) -> str:
    """12th is 12; 2st is a product."""
    number = int(match[1][-2:])
    suffix = "th" if 10 <= number <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return match[1] if match[2] == suffix else match[0]


def _command(match: re.Match[str]) -> str:
    name = match[1] or "not="
    if name in _BARS:
        return _BARS[name]
    return "\\" + _COMMANDS.get(name, name)


def _bare_unit(match: re.Match[str]) -> str:
    """A unit in plain letters becomes text; letters that may be variables stay."""
    space, words, power = match[1], match[2].strip(), (match[3] or "").replace(" ", "")
    is_scale = words.split()[0].lower() in SCALES and is_bare_unit(" ".join(words.split()[1:]) or "units", not space)
    return rf"\text{{{words}}}{power}" if is_scale or is_bare_unit(words, not space) else match[0]


def _braced(text: str) -> str:
    r"""`\frac12` and `\sqrt3` with braces."""
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d|\\[a-zA-Z]+)\s*(\d|\\pi(?![a-zA-Z]))", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d|\\pi)\s*\{", r"\\frac{\1}{", text)
    text = _NEGATIVE_ROOT.sub(r"(-\\sqrt[\1]{\2})", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}", text)
    text = re.sub(r"\^\s*(\\(?!circ)[a-zA-Z]+)(?!\s*\{)", r"^{\1}", text)
    return _SHORT.sub(r"\\sqrt{\1}", text)


def _unspaced(text: str) -> str:
    """Without spaces that mean nothing; those inside text and after a command's name or between words stay."""
    pieces = re.split(r"(\\text\{[^{}]*\})", text)
    for index in range(0, len(pieces), 2):
        piece = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\0", pieces[index])
        piece = re.sub(r"(?<![a-zA-Z\\])([a-zA-Z]{2,})\s+(?=[a-zA-Z]{2}|[-\d])", "\\1\0", piece)
        pieces[index] = piece.replace(" ", "").replace("\0", " ")
    return "".join(pieces)


def _trimmed(text: str) -> str:
    text = _TRAILING.sub("", text.strip()).strip()
    text = re.sub(r"^(?:[=:]|\\approx)\s*", "", text)
    if text.startswith("{") and text.endswith("}") and _encloses(text):
        text = text[1:-1].strip()
    return text


def _encloses(text: str) -> bool:
    """Whether the first brace is closed by the last."""
    depth = 0
    for position, character in enumerate(text):
        if character in "{}" and text[position - 1 : position] != "\\":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return position == len(text) - 1
    return False


def key(text: str) -> str:
    """What is compared as text: without spaces, text commands and braces around a single character."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).replace(" ", "").replace(";", ",")
    text = re.sub(r"(?:^|(?<=[-+*/=(,;|<>]))\{([^{}]*)\}", r"\1", text)
    return re.sub(r"(?<!\\)\{(\\?[^{}\\])\}", r"\1", text)

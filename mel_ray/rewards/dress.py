r"""An answer without its dress: fonts, colours, spaces, sizes of brackets, currency, trailing marks.

`undressed` rewrites text into one plain LaTeX form that means the same. What carries meaning (units, percent and degree
signs, bases, brackets, names before an equals sign) stays.
"""

import re
from functools import lru_cache

from mel_ray.rewards.extract import closing, final_boxes
from mel_ray.rewards.units import BARE_UNITS

_ROW = "\x01"  # between the rows of a matrix
MAX_WRAPPERS = 50
MAX_PASSES = 8  # nested commands are undone from the inside out

_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\times ", "÷": r"\div ",
    "·": r"\cdot ", "∙": r"\cdot ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ",
    "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "…": r"\dots ", "⋯": r"\dots ", "′": "'", "’": "'", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "²": "^2", "³": "^3", "⁄": "/", "∕": "/",
    "€": "", "£": "", "¥": "", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "％": "%", "（": "(", "）": ")", "，": ", ",
    "√": r"\sqrt ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ",
})  # fmt: skip
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
    "varepsilon": "epsilon", "land": "wedge", "lor": "vee",
}  # fmt: skip
_COMMAND = re.compile(r"\\(?:not\s*=|([a-zA-Z]+)(?![a-zA-Z]))")
_BARS = {"lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrack": "[", "rbrack": "]", "lt": "<", "gt": ">"}
_PERCENT = re.compile(r"\s*(?:\\?%|(?<![a-zA-Z\\])(?:percent|percentage|pct)(?![a-zA-Z]))")
_DEGREES = re.compile(r"\s*(?<![a-zA-Z\\])(?:degrees?|deg)(?![a-zA-Z])\.?")
_CIRCLE = re.compile(
    r"(?:\{\s*\})?\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|(?<!\^)\\circ(?=\s*(?:$|[,;)\]}+\-]))"
)
_ORDINAL = re.compile(r"(?<=\d)\s*(?:\^\s*(?:\{\s*)?)?(?:\\text\{\s*)?(?:st|nd|rd|th)(?:\s*\})*(?![a-zA-Z])")
_AND = re.compile(r"\s*[,;]?\s*(?:\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*")
_TRAILING = re.compile(r"(?:[\s.,;:~]|\\\\|\\$|\\(?=\s*$))+$")
_BARE_UNIT = re.compile(
    r"(?<=[\d})])(\s*)((?:[a-zA-Z]{2,}\.?)(?:\s*(?:/|\s)\s*[a-zA-Z]{1,}\.?)*)\s*(\^\s*\{?[23]\}?)?\s*$"
)
_SHORT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z]))")
_MATH_WORDS = frozenset(("pi", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "inf", "infinity",
                         "infty", "mod", "max", "min", "gcd", "lcm"))  # fmt: skip


@lru_cache(maxsize=512)
def undressed(answer: str) -> str:
    """The answer in its plain form; twice undressed is once undressed."""
    if "\\boxed" in answer or "\\fbox" in answer:
        answer = ", ".join(final_boxes(answer)) or answer
    text = answer.translate(_CHARACTERS).replace("\n", " ").replace("\t", " ").strip()
    text = text.replace("\\\\", _ROW if "\\begin" in text else "\\")
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
    text = re.sub(r"\\(?:\$|pounds|euro)(?![a-zA-Z])", "", text).replace("$", " ")
    text = re.sub(r"(?<=[\d}]),\s+", ";", text)  # a comma with a space after it separates
    text = _SPACE.sub(" ", text)
    text = re.sub(r"([_^])\s*(\w)\s+(?=\w)", r"\1{\2}", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)", ";", text)
    text = _COMMAND.sub(_command, text)
    text = text.replace("\\(", " ").replace("\\)", " ").replace("\\[", " ").replace("\\]", " ")
    text = re.sub(r"\.{3,}", r"\\dots ", text)
    text = _ORDINAL.sub("", text)
    text = _AND.sub(";", text)
    text = _PERCENT.sub(r"\\%", text)
    text = _CIRCLE.sub(r"^\\circ ", text)
    text = _DEGREES.sub(r"^\\circ ", text)
    text = _trimmed(text)
    text = _BARE_UNIT.sub(_bare_unit, text)
    text = _braced(text)
    return _trimmed(_unspaced(text)).replace(_ROW, "\\\\")


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
    content, command = match[1].strip(), match[0][1 : match[0].index("{")].strip()
    if not content:
        return " "
    if re.fullmatch(r"(?:and|or|,|;|\s)+", content):
        return " ; "
    if re.fullmatch(r"\\?%|percent|percentage|pct", content):
        return r"\%"
    if re.fullmatch(r"degrees?|deg\.?|°|\^\\circ\s*", content):
        return r"^\circ "
    if not re.search(r"[a-zA-Z]", content) or "\\" in content:
        return f" {content} "
    if re.fullmatch(r"\(?[A-J]\)?\.?", content):
        return content
    if label := re.match(r"\([A-J]\)|[A-J][.:)](?=\s)", content):
        return rf"{label[0]}\text{{{content[label.end() :].strip()}}}"
    if content.lower() == "infinity":
        return r"\infty "
    if command.startswith("operatorname"):
        return rf"\{content} " if content.isalpha() else content
    is_unit = bool(re.search(r"[\d})]\s*(?:\\[,;: ]|~)*\s*$", match.string[: match.start()]))
    if len(content) == 1 and not command.startswith(("text", "mbox", "hbox")) and not is_unit:
        return content
    return rf"\text{{{content}}}"


def _command(match: re.Match[str]) -> str:
    name = match[1] or "not="
    if name in _BARS:
        return _BARS[name]
    return "\\" + _COMMANDS.get(name, name)


def _bare_unit(match: re.Match[str]) -> str:
    """A known unit, or words after a space, become text; letters that may be variables stay."""
    space, words, power = match[1], match[2].strip(), (match[3] or "").replace(" ", "")
    parts = [part.strip(".") for part in re.split(r"[\s/]+", words)]
    if any(part.lower() in _MATH_WORDS for part in parts):
        return match[0]
    known = all(part in BARE_UNITS or part.lower() in BARE_UNITS or part in ("per", "h", "s") for part in parts)
    plain = bool(space) and all(len(part) >= 4 or part in BARE_UNITS or (n and part.islower()) for n, part in
                                enumerate(parts)) and len(parts[0]) >= 3  # fmt: skip
    return rf"\text{{{words}}}{power}" if known or plain else match[0]


def _braced(text: str) -> str:
    r"""`\frac12` and `\sqrt3` with braces."""
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}", text)
    return _SHORT.sub(r"\\sqrt{\1}", text)


def _unspaced(text: str) -> str:
    """Without spaces that mean nothing; those inside text and after a command's name stay."""
    pieces = re.split(r"(\\text\{[^{}]*\})", text)
    for index in range(0, len(pieces), 2):
        piece = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\0", pieces[index])
        pieces[index] = re.sub(r"(?<=[a-zA-Z]{2})\s+(?=[a-zA-Z]{2})", "\0", piece).replace(" ", "").replace("\0", " ")
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
    return re.sub(r"(?<!\\)\{(\\?[^{}\\])\}", r"\1", text)

r"""Characters and plain spellings of mathematics as LaTeX: `√12`, `x²`, `π`, `sqrt(2)`, `pi`, `2**10`."""

import re

_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "∙": r"\cdot ",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ",
    "∓": r"\mp ", "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "…": r"\dots ", "⋯": r"\dots ", "′": "'", "’": "'", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "⁄": "/", "∕": "/", "℃": r"^\circ C",
    "℉": r"^\circ F", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "\u200b": "", "％": "%", "（": "(",
    "）": ")", "，": ", ", "。": ".", "；": ";", "：": ":", "＝": "=", "＋": "+", "－": "-", "＜": "<", "＞": ">",
    "［": "[", "］": "]",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ",
    "ω": r"\omega ", "\n": " ", "\t": " ", "\x0c": "\\f", "\x08": "\\b",
})  # fmt: skip
_DIGITS = str.maketrans("０１２３４５６７８９", "0123456789")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_FUNCTION = re.compile(
    r"(?<![a-zA-Z\\])(arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log|exp)(?=\s*[(^_]|\s+[a-zA-Z\\\d])"
)
_CURRENCIES = {"$": "dollars", "pounds": "gbp", "euro": "euros", "€": "euros", "£": "gbp", "¥": "yen"}
_CURRENCY = re.compile(r"\\(\$|pounds(?![a-zA-Z])|euro(?![a-zA-Z]))|([€£¥])")


def latex_of(answer: str) -> str:
    """Characters and plain names of mathematics in LaTeX."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: "^{" + match[0].translate(_SUPERSCRIPTS) + "}", answer)
    text = re.sub("[₀-₉]+", lambda match: "_{" + match[0].translate(_SUBSCRIPTS) + "}", text)
    text = re.sub(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-zA-Z]))", lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = text.translate(_DIGITS).translate(_CHARACTERS).strip()
    text = re.sub(r"^\*+(?=[^*])|(?<=[^*])\*+$", "", text).replace("**", "^")
    text = re.sub(r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = _FUNCTION.sub(r"\\\1", text)
    text = re.sub(r"(?<![a-zA-Z\\{])(pi|infinity|infty)(?![a-zA-Z}])", _constant, text)
    return re.sub(
        r"[\u4e00-\u9fff]+", lambda match: rf"\text{{{match[0]}}}" if "\\text" not in text else match[0], text
    )


def _constant(match: re.Match[str]) -> str:
    return r"\pi " if match[1] == "pi" else r"\infty "


def currency_as_unit(text: str) -> str:
    r"""`\$5` as `5 dollars`; where words say the unit already, they count."""
    found = _CURRENCY.search(text)
    text = _CURRENCY.sub(" ", text).replace("$", " ").strip()
    if found is None or not re.search(r"[\d.}]\s*$", text) or "," in re.sub(r"\d,\d{3}", "", text):
        return text
    return rf"{text}\text{{{_CURRENCIES[found[1] or found[2]]}}}"

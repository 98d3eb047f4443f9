"""How much of a benchmark's questions stands in training questions.

The overlap of a training question with a benchmark question is the share of the benchmark question's words that lie in
13 consecutive words which both have. A phrase is no overlap: 13 words that questions share which otherwise have little
in common, such as "where m and n are relatively prime positive integers. Find m+n". Its words count neither as shared
nor as words of the question.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mel_ray.records.question import Question

GRAM = 13
STRANGERS = 3  # questions with little else in common that make 13 shared words a phrase
LITTLE, MUCH = 0.5, 0.8  # shares of a question's words
_WORD = re.compile(r"[^\W\u3040-\u9fff]+|[\u3040-\u9fff]|[-+*/^=<>!|]")  # Chinese and Japanese have no spaces
_SPACING = re.compile(r"\\(?:(?:left|right|displaystyle|quad)(?![a-zA-Z])|[,;:! ])")
Words = tuple[str, ...]
Shared = Mapping[int, set[Words]]  # 13-grams by the number of the benchmark question that has them


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training question, the question of a benchmark it has most of, and how much of it, in (0, 1]."""

    benchmark: str
    train: Question
    held: Question
    share: float


def words_of(question: str) -> Words:
    """Words, numbers and signs in lower case: `3 + 4` and `3 * 4` differ."""
    return tuple(_WORD.findall(_SPACING.sub(" ", question).lower()))


def grams(words: Words) -> list[Words]:
    """The 13-grams in order; fewer words are one gram, the whole."""
    return [words[start : start + GRAM] for start in range(max(1, len(words) - GRAM + 1))] if words else []


class _Text:
    """The words of a question and where each 13-gram begins."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.starts: dict[Words, list[int]] = defaultdict(list)
        for start, gram in enumerate(grams(words)):
            self.starts[gram].append(start)

    def covered(self, shared: Iterable[Words]) -> set[int]:
        """The places of the words in these 13-grams."""
        begins = [(start, len(gram)) for gram in shared for start in self.starts.get(gram, ())]
        return {place for start, length in begins for place in range(start, start + length)}

    def part(self, shared: Iterable[Words]) -> float:
        return len(self.covered(shared)) / len(self.words)

    def part_without(self, phrases: set[Words], shared: set[Words]) -> float:
        """The share of the words outside phrases that lie in shared 13-grams; 1 where all of it is shared."""
        if len(shared) == len(self.starts):
            return 1.0
        left_out = self.covered(phrases & self.starts.keys())
        return len(self.covered(shared - phrases) - left_out) / max(1, len(self.words) - len(left_out))


def overlaps(train: Sequence[Question], benchmarks: Mapping[str, Sequence[Question]]) -> list[Overlap]:
    """The greatest overlap of each training question with each benchmark, where there is one; the worst first."""
    held = [(name, question) for name, questions in benchmarks.items() for question in questions]
    texts = [_Text(words_of(question.text)) for _, question in held]
    owners: dict[Words, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for gram in text.starts:
            owners[gram].append(number)
    hits = [(question, _shared(words, owners), words) for question in train for words in [words_of(question.text)]]
    hits = [hit for hit in hits if hit[1]]
    known = {words: shared for _, shared, words in hits} | {text.words: _shared(text.words, owners) for text in texts}
    phrases = _phrases(known, texts)
    found: list[Overlap] = []
    for question, shared, _ in hits:
        worst: dict[str, Overlap] = {}
        for number, common in shared.items():
            name, other = held[number]
            share = texts[number].part_without(phrases, common)
            if share > (worst[name].share if name in worst else 0.0):
                worst[name] = Overlap(name, question, other, share)
        found += worst.values()
    return sorted(found, key=lambda overlap: -overlap.share)


def _shared(words: Words, owners: Mapping[Words, Sequence[int]]) -> Shared:
    found: dict[int, set[Words]] = defaultdict(set)
    for gram in grams(words):
        for number in owners.get(gram, ()):
            found[number].add(gram)
    return found


def _phrases(known: Mapping[Words, Shared], texts: Sequence[_Text]) -> set[Words]:
    """The 13-grams that at least three questions share with one of a benchmark which they hardly resemble."""
    strangers: dict[Words, set[Words]] = defaultdict(set)
    for words, shared in known.items():
        own = _Text(words) if shared else None
        for number, common in shared.items():
            other = texts[number]
            if own is None or other.words == words:
                continue
            part = other.part(common)
            if part < LITTLE or (part < MUCH and own.part(common) < LITTLE):
                for gram in common:
                    strangers[gram].add(words)
    return {gram for gram, those in strangers.items() if len(those) >= STRANGERS}

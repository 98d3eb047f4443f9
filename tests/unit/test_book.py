"""mel/book.py and mel/retrieval.py: which lesson is found for a question, and the book's place in a checkpoint."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from mel_ray.config.learning import RetrievalConfig
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.mel.book import FILE, Book, best, read_book
from mel_ray.mel.retrieval import bm25, embedding
from mel_ray.records.experience import Experience
from mel_ray.records.incident import LostRecords
from mel_ray.records.ledger import DraftFate
from mel_ray.records.question import Question, Truth
from tests.unit.builders import FakeStore, config_of, draft, proven

BM25 = RetrievalConfig(method="bm25")
WORDS = ("zade", "bomo", "rini", "keta", "lodu")


def written(word: str, number: int = 0):
    question = Question(f"What is {number} {word} 5?", Truth("1"), question_id=f"{word}-{number}")
    return replace(draft(), question=question, experience=Experience("Step 1", "It erred.", (f"If {word}, then add.",)))


def row_of(word: str, number: int = 0, **changes):
    return replace(proven(ref=f"{word}-{number}"), question_id=f"{word}-{number}", **changes)


def book_of(*words: str, rows=None, **options) -> Book:
    overrides = {"method": "bm25", **options}
    mel = config_of("mel.credit=augment", *(f"mel.retrieval.{name}={value}" for name, value in overrides.items())).mel
    store = FakeStore(**{f"{word}-0": (written(word),) for word in WORDS})
    book = Book(mel, store)
    for step, word in enumerate(words, 1):
        asyncio.run(book.add(step, rows or [row_of(word)]))
    return book


def test_the_lesson_about_the_same_thing_is_found_whatever_else_is_alike():
    book = book_of(*WORDS)
    for word in WORDS:
        assert book.find("other", f"Compute 9 {word} 7.").row.question_id == f"{word}-0"
    assert book.find("other", "What is 9 vasa 7?") is None  # "what" and "is" are everywhere
    assert book.find("zade-0", "What is 9 zade 7?") is None  # a question's own lesson is no other's


def test_common_words_count_nothing():
    documents = [f"What is {n} {word} 5?" for n, word in enumerate(WORDS * 4)]
    scores = bm25("What is 9 bomo 7?", documents)
    assert (scores > 0).tolist() == ["bomo" in text for text in documents]
    assert not bm25("What is it?", documents).any()
    assert bm25("?", documents).tolist() == [0.0] * len(documents)
    assert bm25("zade", ["?", "!"]).tolist() == [0.0, 0.0]


def test_of_equals_the_latest_is_taken():
    documents = [f"If {word}, then add." for word in (*WORDS, "zade")]
    assert best("What is 3 zade 4?", documents, BM25) == 5
    assert best("What is 3 zade 4?", [], BM25) is None
    assert best("What is 3 zade 4?", documents, RetrievalConfig(method="bm25", min_score=100.0)) is None


def test_only_what_passed_its_replay_travels_and_the_book_is_bounded():
    failed = book_of("zade", rows=[row_of("zade", is_proven=False, fate=DraftFate.REPLAY_FAILED)])
    assert len(failed.entries) == 1
    assert failed.find("other", "Compute 9 zade 7.") is None
    assert failed.any_other("other", 3).question_id == "zade-0"  # as a control
    assert failed.any_other("zade-0", 3) is None
    (entry,) = failed.entries
    failed.entries = [replace(entry, rule="If zade, then add.")]
    assert failed.any_other("other", 3, "If zade, then add.") is None  # another question, but the same rule
    assert failed.any_other("other", 3, "If bomo, then add.") is not None
    small = book_of(*WORDS, size=2)
    assert [one.row.question_id for one in small.entries] == ["keta-0", "lodu-0"]
    unused = book_of("zade", method="none")
    assert unused.entries == []


def test_what_a_checkpoint_holds_is_found_again(tmp_path):
    book = book_of(*WORDS)
    asyncio.run(book.save(tmp_path))
    store = FakeStore()
    again = Book(config_of("mel.credit=augment", "mel.retrieval.method=bm25").mel, store)
    asyncio.run(again.load(tmp_path))
    assert [(one.step, one.text) for one in again.entries] == [(one.step, one.text) for one in book.entries]
    found = again.find("other", "Compute 9 rini 7.")
    (record,) = store.records[found.row.ref]
    assert record.experience.heuristics == ("If rini, then add.",)
    assert found.row.replays == ()


def test_lessons_on_a_node_that_is_gone_are_forgotten(tmp_path):
    book = book_of(*WORDS)
    known = book._store.get

    async def get(refs):
        if "zade-0" in refs:
            raise LostRecords("gone")
        return await known(refs)

    book._store.get = get
    asyncio.run(book.save(tmp_path))
    assert [one.row.question_id for one in book.entries] == [f"{word}-0" for word in WORDS[1:]]
    assert len(read_book(tmp_path)[0]) == len(WORDS) - 1


def test_an_empty_book_leaves_no_file_and_a_damaged_one_is_an_error(tmp_path):
    asyncio.run(book_of().save(tmp_path))
    assert not (tmp_path / FILE).exists()
    assert read_book(tmp_path) == ([], [])
    (tmp_path / FILE).write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match=r"book\.npz"):
        read_book(tmp_path)


def test_embeddings_compare_directions():
    """With the embedded model as an encoder, which knows nothing of meaning; equal texts are alike most of all."""
    options = RetrievalConfig(method="embedding", model=str(EMBEDDED))
    documents = ["What is 3 + 4?", "Ada walks up from floor 1 to floor 7.", "Write 3 hours in minutes."]
    assert best(documents[1], documents, options) == 1
    scores = embedding(documents[2], documents, str(EMBEDDED))
    assert scores[2] == pytest.approx(1.0, abs=1e-5)
    assert np.all(scores <= 1.0 + 1e-5)

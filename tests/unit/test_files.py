"""data/files.py and data/formats.py: every kind of file gives the same rows, and damage is named by its line."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mel_ray.config.schema import SourceConfig
from mel_ray.data.datasets import load
from mel_ray.data.files import kind_of
from mel_ray.records.problem import ConfigError

ROWS = [{"question": f"{n} + 1, in “words”?\nZwölf", "answer": str(n + 1)} for n in range(3)]
PAIRS = [(" ".join(row["question"].split()), row["answer"]) for row in ROWS]


def loaded(path, **keys):
    return load(SourceConfig(kind="table", path=str(path), **keys))


def pairs(path, **keys):
    return [(" ".join(one.text.split()), one.truth.answer) for one in loaded(path, **keys).questions]


def sentence(path, **keys):
    with pytest.raises(ConfigError) as caught:
        loaded(path, **keys)
    return str(caught.value)


def as_csv(newline):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["question", "answer"], lineterminator=newline)
    writer.writeheader()
    writer.writerows(ROWS)
    return stream.getvalue()


LINES = "\n".join(json.dumps(row) for row in ROWS)
TEXTS = {
    "lines.jsonl": LINES,
    "lines.ndjson": LINES + "\n",
    "lines-in.json": LINES,
    "blank-lines.jsonl": "\n" + LINES.replace("\n", "\n\n  \n"),
    "crlf.jsonl": LINES.replace("\n", "\r\n"),
    "cr.jsonl": LINES.replace("\n", "\r"),
    "one-line.json": json.dumps(ROWS),
    "array-in.jsonl": json.dumps(ROWS),
    "indented.json": json.dumps(ROWS, indent=4),
    "indented-crlf.json": json.dumps(ROWS, indent=2).replace("\n", "\r\n"),
    "held.json": json.dumps({"version": 2, "tags": ["a"], "data": ROWS}),
    "held-indented.json": json.dumps({"data": ROWS}, indent=2),
    "plain.csv": as_csv("\n"),
    "crlf.csv": as_csv("\r\n"),
}


def packed(name, data):
    if name.endswith(".zst"):
        return pa.compress(data, codec="zstd", asbytes=True)
    return gzip.compress(data) if name.endswith(".gz") else data


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_form_gives_the_same_rows(name, ending, mark, tmp_path):
    (tmp_path / (name + ending)).write_bytes(packed(ending, mark + TEXTS[name].encode()))
    assert pairs(tmp_path / (name + ending)) == PAIRS
    assert pairs(tmp_path) == PAIRS


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_parquet_plain_and_compressed_with_short_floats(ending, tmp_path):
    table = pa.table({"question": ["a", "b"], "answer": pa.array([0.1, None], pa.float32())})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    (tmp_path / f"t.parquet{ending}").write_bytes(packed(ending, stream.getvalue()))
    assert pairs(tmp_path) == [("a", "0.1")]


def test_several_compressed_parts_in_one_file(tmp_path):
    for ending in (".gz", ".zst"):
        parts = [packed(ending, f"{json.dumps(row)}\n".encode()) for row in ROWS]
        file = tmp_path / f"parts.jsonl{ending}"
        file.write_bytes(b"".join(parts))
        assert pairs(file) == PAIRS


@pytest.mark.parametrize("indent", [None, 2])
def test_a_single_row_may_hold_a_list_of_its_own(indent, tmp_path):
    row = {"prompt": [{"role": "user", "content": "Q?"}], "answer": "1"}
    (tmp_path / "one.json").write_text(json.dumps(row, indent=indent))
    assert pairs(tmp_path / "one.json", question="prompt") == [("Q?", "1")]


BAD = {
    "cut off in the last line": ("a.jsonl", LINES + '\n\n{"question": "Q', "line 5 is cut off"),
    "cut off in CRLF": ("a.jsonl", (LINES + '\n{"question": "Q"').replace("\n", "\r\n"), "line 4 is cut off"),
    "no JSON in the middle": ("a.jsonl", LINES.replace("\n", "\nNaN?\n", 1), "line 2 is not JSON"),
    "a cut-off array": ("a.json", json.dumps(ROWS, indent=2)[:-20], "line 12 is cut off"),
    "a cut-off object": ("a.json", '{\n "data": [\n  {"question": "Q"}\n', "is cut off"),
    "text after an array": ("a.json", "[]\n[]", "line 2 is not JSON"),
    "a list in a line": ("a.jsonl", LINES + "\n[1]", "line 4 holds a list"),
    "texts in an array": ("a.json", '[{"question": "Q", "answer": "1"}, "x"]', "item 2 is a text"),
    "a number": ("a.json", "3", "line 1 holds a number"),
    "a key twice": ("a.jsonl", '{"question": "Q", "answer": "1", "answer": "2"}', "names 'answer' twice"),
    "two lists": ("a.json", json.dumps({"train": ROWS, "test": ROWS}), "several lists of rows (train, test)"),
    "a long CSV line": ("a.csv", "question,answer\nQ,1\nQ,1,2\n", "line 3 has 3 values"),
    "a short CSV line": ("a.csv", 'question,answer\n"Q\nQ",1\nR\n', "line 4 has 1 value,"),
    "an unclosed quote": ("a.csv", 'question,answer\nQ,1\n"R,2\n', "line 3 is cut off"),
    "a column twice": ("a.csv", "question,answer,answer\nQ,1,2\n", "names a column twice: answer"),
}


@pytest.mark.parametrize("what", BAD)
def test_damage_is_named_by_its_line(what, tmp_path):
    name, text, why = BAD[what]
    (tmp_path / name).write_bytes(text.encode())
    said = sentence(tmp_path / name)
    assert why in said and name in said and said.count("\n") == 0


def test_other_encodings_and_damaged_compression_are_sentences(tmp_path):
    for name, data, why in (
        ("wide.jsonl", LINES.encode("utf-16"), "save it as UTF-8"),
        ("wide.csv", TEXTS["plain.csv"].encode("utf-16-le"), "save it as UTF-8"),
        ("latin.jsonl", (LINES + '\n{"question": "ü"}').replace("\\u00fc", "ü").encode("latin-1"), "is not UTF-8"),
        ("cut.jsonl.gz", gzip.compress(LINES.encode() * 50)[:-12], "gzip data is cut off"),
        ("no.jsonl.gz", b"hello", "gzip data is cut off or damaged"),
        ("cut.jsonl.zst", pa.compress(LINES.encode() * 50, codec="zstd", asbytes=True)[:-5], "zstd data is cut off"),
        ("no.json.zst", b"hello", "zstd data is cut off or damaged"),
        ("deep.json", b"[" * 100_000, "nested too deeply"),
    ):
        (tmp_path / name).write_bytes(data)
        assert why in sentence(tmp_path / name), name


def test_empty_files_have_no_questions(tmp_path):
    for name in ("a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(packed(name, b"") if name.endswith("gz") else b"")
        assert "there are no questions in it" in sentence(tmp_path / name), name


def test_kinds_by_name_and_what_is_skipped_in_a_folder(tmp_path):
    assert [kind_of(name) for name in ("A.JSONL.GZ", "b.csv.zst", "c.txt", "d.gz")] == [".jsonl", ".csv", None, None]
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.jsonl").write_text("{")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "a.jsonl").write_text(LINES)
    assert pairs(tmp_path) == PAIRS
    (tmp_path / "a.txt").write_text(LINES)
    assert ".jsonl" in sentence(tmp_path / "a.txt")

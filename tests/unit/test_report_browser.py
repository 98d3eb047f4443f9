"""The report in a real browser: what a model writes never runs.

Needs Playwright and its Chromium (`make test-browser`), or another one in CHROMIUM, its options in CHROMIUM_OPTIONS.
"""

import os
import shlex
from dataclasses import replace

import pytest

from mel_ray.records.ledger import DraftFate, Ledger
from mel_ray.records.reports import StepReport
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import MetricsFile
from mel_ray.run.report import write_report
from mel_ray.run.store import EXPERIENCE_SCHEMA, experience_row, write_rows
from tests.unit.builders import draft, proven, trajectory
from tests.unit.test_report import METRICS

RUN_THIS = "document.documentElement.dataset.ran = true"
HOSTILE = [
    f"<script>{RUN_THIS}</script>",
    f'<img src="nowhere:" onerror="{RUN_THIS}">',
    f"</textarea></pre></style></title><script>{RUN_THIS}</script>",
    f"\"><svg onload='{RUN_THIS}'></svg>",
    f"' autofocus tabindex=0 onfocus='{RUN_THIS}' x='",
    f"--><script>{RUN_THIS}</script>\u202e\u0000",
    f"{{{{ 7 * 7 }}}}<iframe srcdoc='<script>parent.{RUN_THIS}</script>'></iframe>",
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path, options = os.environ.get("CHROMIUM"), shlex.split(os.environ.get("CHROMIUM_OPTIONS", ""))
    with playwright.sync_playwright() as started:
        try:
            found = started.chromium.launch(executable_path=path, args=options)
        except playwright.Error as error:
            pytest.skip(f"no browser: {error.message.splitlines()[0]}")
        yield found
        found.close()


def shown(browser, file):
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_timeout(200)  # for what loads later
    return page


def test_hostile_text_runs_where_it_is_not_escaped(browser, tmp_path):
    for number, text in enumerate(HOSTILE[:4]):
        (tmp_path / f"{number}.html").write_text(f'<p><b title="{text if text[0] == chr(34) else ""}">{text}</b>')
        page = shown(browser, tmp_path / f"{number}.html")
        assert page.evaluate("document.documentElement.dataset.ran") == "true", text


def test_what_a_model_writes_is_shown_and_never_runs(browser, tmp_path):
    folder = RunFolder(tmp_path / "hostile")
    folder.prepare(1000)
    sink = MetricsFile(folder)
    for step, text in enumerate(HOSTILE, start=1):
        row = experience_row(step, replace(proven(replays="c"), fate=DraftFate.TRAINED), draft(), [trajectory(3)])
        written = dict.fromkeys(("question", "answer", "correct", "incorrect", "written", "critique"), text)
        written |= {"bifurcation": text, "heuristics": [text], "replays": [text], "reason": text, "question_id": text}
        write_rows(folder.experiences(step), [row | written], EXPERIENCE_SCHEMA)
        sink.step(StepReport(step, METRICS, Ledger(0, 1, {}, {DraftFate.TRAINED: 1})))
    sink.close("done")
    write_report([folder.path], folder.report)
    page = shown(browser, folder.report)
    assert page.evaluate("document.documentElement.dataset.ran") is None
    written = "img, iframe, textarea, [onload], [onerror], [onfocus], [autofocus]"
    assert page.evaluate(f"document.querySelectorAll('{written}').length") == 0
    assert HOSTILE[0] in page.inner_text("body")

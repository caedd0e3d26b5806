import base64
import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from plots.__main__ import main
from plots.figures import DRAWN
from plots.report import write
from plots.results import find
from tests.plots.conftest import CONTRASTIVE, CROSS_ENTROPY, IDENTITY, NAMES, SYSTEM, Study, random_bits, right_up_to
from train.build import build

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Few are enough where it is not the figures that are tested.
ONE = {"box_plot": DRAWN["box_plot"]}


class Page(HTMLParser):
    """What a page refers to, its identifiers, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.references: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.references += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "poster", "action")]
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data} "

    def of(self, tag: str) -> list[Mapping[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def words(page: Page) -> str:
    return " ".join(page.text.split())


@pytest.fixture
def made(study: Study) -> Path:
    """The list of a small study."""
    for entry, limit in ((IDENTITY, 0), (CROSS_ENTROPY, 1), (SYSTEM, 3)):
        study.trained(entry, right_up_to(limit))
    return study.list_of(IDENTITY, CROSS_ENTROPY, SYSTEM)


def test_report_of_a_study(study: Study, made: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(made)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert paths[-1] == study.runs / "figures" / "small" / "report.html"
    page = Page(paths[-1].read_text())
    assert page.open == []
    # Nothing is fetched, nothing is run.
    assert not [name for name, _ in page.tags if name in ("script", "link", "iframe", "object")]
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= anchors
    images = page.of("img")
    assert len(images) == len([path for path in paths if path.suffix == ".png"]) >= 5
    for image, path in zip(images, (path for path in paths if path.suffix == ".png")):
        assert image["alt"]
        assert base64.b64decode((image["src"] or "").partition(",")[2]) == path.read_bytes()
    saved = {link["download"] for link in page.of("a") if "download" in link}
    assert saved == {path.name for path in paths if path.suffix in (".csv", ".pdf")}
    text = words(page)
    for entry in (IDENTITY, CROSS_ENTROPY, SYSTEM):
        assert build(entry).name in text
    assert "n = 167 compositions, 1 seed, 20 images" in text
    assert "Missing: nothing" in text
    assert "ModularSystem 1 100.0 100.0 to 100.0" in text
    assert "names, order 70 70 2,600 12" in text
    assert "ModularSystem - CrossEntropy two or more corruptions 1 +43.8 +43.8 to +43.8 20 0 < 0.001" in text
    assert "data checksum (SHA-256 of the decoded images)" in text
    assert re.search(r"torch 2\.\d", text)
    # What cannot be drawn is named, with what to do.
    assert "Figures that are not here" in text
    assert "python -m analysis invariance" in text


def test_the_same_results_give_the_same_page_and_nothing_of_the_machine(study: Study, made: Path) -> None:
    for run in study.runs.rglob("attempts.jsonl"):
        attempt = json.loads(run.read_text())
        run.write_text(json.dumps(attempt | {"host": "secret-host", "log": "secret-folder/log.txt", "start": 0.0}) + "\n")
    pages = [write(ONE, find(made), study.folder / name)[-1].read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1]
    assert b"secret" not in pages[0]
    assert "3 finished runs, started 1970-01-01 00:00 UTC." in words(Page(pages[0].decode()))


def test_what_is_missing_is_named_and_names_are_no_markup(study: Study) -> None:
    study.trained(IDENTITY, random_bits(0))
    absent = [{**CROSS_ENTROPY, "seed": seed} for seed in range(9)]
    path = study.list_of(IDENTITY, *absent, name="<script>x&y")
    text = write(ONE, find(path), study.folder / "out")[-1].read_text()
    page = Page(text)
    assert not page.of("script")
    assert len(page.of("img")) == 1
    assert html.escape("<script>x&y.yaml") in text
    assert "Missing: 9 runs of this source." in words(page)
    for entry in absent:
        assert build(entry).name in words(page)


def test_runs_of_wandb_have_what_is_known_of_them(study: Study) -> None:
    entries = [{**CROSS_ENTROPY, "seed": 1}, {**CROSS_ENTROPY, "seed": 2}, CONTRASTIVE]
    for number, entry in enumerate(entries):
        study.trained(entry, random_bits(number))
    results = find(study.list_of(*entries))
    runs = tuple(replace(run, tested=tuple(replace(own, path=None) for own in run.tested), directory=None) for run in results.runs)
    text = words(Page(write({"paired": DRAWN["paired"], **ONE}, replace(results, runs=runs), study.folder / "out")[-1].read_text()))
    assert "not recorded (read from W&B): 3 runs" in text
    assert "95 % intervals: Student's t over seeds." in text
    assert "data checksum not recorded here" in text
    assert "paired : " in text
    assert "which has no results of single images" in text
    mean = 100 * random_bits(2)[NAMES.index(("Identity",))].mean()
    assert f"Contrastive 1 {mean:.1f}" in text


def test_a_study_without_an_evaluation_is_one_line(study: Study, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(study.list_of(IDENTITY))]) == 2
    assert "error: report: no finished run" in capsys.readouterr().err
    assert not (study.runs / "figures").exists()


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the PATH (Debian: apt-get install chromium)")
def test_a_browser_shows_it_without_a_network(study: Study, made: Path) -> None:
    """In a copy of the page a script tells what the browser made of it."""
    page = write(DRAWN, find(made), study.folder / "out")[-1]
    tell = "<script>addEventListener('load', () => {document.title = JSON.stringify([...document.images].map(i => [i.complete, i.naturalWidth]).concat([[document.documentElement.scrollWidth <= innerWidth, document.querySelectorAll('details').length, performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length]]))})</script>"
    copy = study.folder / "copy.html"
    copy.write_text(page.read_text().replace("</body>", f"{tell}</body>"))
    for width in (1200, 400):
        command = [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--window-size={width},900",
        ]
        command += [f"--user-data-dir={study.folder / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", copy.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        told = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", shown)[1]))
        *images, (fits, details, fetched) = told
        assert len(images) == page.read_text().count("<img ") >= 5
        assert all(complete and width > 300 for complete, width in images)
        assert (fits, details, fetched) == (True, 3, 0)

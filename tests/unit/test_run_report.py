"""The report of a run: one file that loads nothing, with every foreign word as text.

``REGENERATE=1 tests/run tests/unit/test_run_report.py`` writes the golden page anew.
"""

import base64
import datetime
import hashlib
import html.parser
import json
import os
import pathlib
import re
import time

import pytest

from flower_agent import cli
from flower_agent.model.error_codes import CATALOGUE
from flower_agent.paths import Paths
from flower_agent.reporting import run_report

CASE = pathlib.Path(__file__).parents[1] / "cases/reports/finished-with-failures"
AT = datetime.datetime(2026, 12, 1, 8, 0, tzinfo=datetime.UTC)
VOID = {"meta", "br", "path", "circle", "rect"}


class Page(html.parser.HTMLParser):
    """What a browser would make of a page, as far as tests ask; unbalanced tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.ids, self.texts, self.attributes = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def document():
    found = json.loads((CASE / "run.json").read_text())
    return {**found, "outputs": json.loads((CASE / "outputs.json").read_text())}


def render(found, run_id="7"):
    return run_report.render(run_id, found, "0.1.0", AT)


def test_the_page_of_the_case_is_what_stands_there():
    made = render(document(), "14193650163529105423")
    if os.environ.get("REGENERATE"):
        (CASE / "report.html").write_text(made, encoding="utf-8")
    assert (CASE / "report.html").read_text(encoding="utf-8") == made


def test_the_page_says_what_an_operator_asks():
    page = Page(render(document()))
    for words in (
        "finished with failures: round 3: 1 of 2 results: ValueError: no column 'age'",
        "flower-agent/digits 1.0.0", "alice", "0:01:02", "final_model.npz", "19.8 KiB",
        "1b7ae3b0c1f2d3e4a5b60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c",
        "num-server-rounds", "1 result, 1 failure", "Made by flower-agent 0.1.0",
    ):  # fmt: skip
        assert words in page.text


@pytest.mark.parametrize("code", ["run.clients_failed", "run.client_failed"])
def test_failures_have_the_words_of_the_page_of_errors(code):
    page = Page(render(document()))
    meaning, remedy = CATALOGUE[code]
    assert meaning in page.text
    assert f"What to do: {remedy.replace(' RUN', ' 7')}" in page.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-30T10:31:05.123+00:00", "2026-11-30 10:31:05 UTC"),
        ("2026-11-30T12:31:05+02:00", "2026-11-30 10:31:05 UTC"),
        ("2026-11-30T10:31:05", "2026-11-30 10:31:05"),
        ("0001-01-01T00:00:00+23:00", "0001-01-01T00:00:00+23:00"),
        ("yesterday", "yesterday"),
    ],
)
def test_times_are_for_people(text, shown):
    assert f"Submitted {shown} " in Page(render({"pending_at": text})).text


def test_a_run_whose_clients_failed_is_not_all_well():
    assert "◐ finished with failures: x" in Page(render({"end": "finished", "cause": "x"})).text
    assert "● finished " in Page(render({"end": "finished"})).text


def test_a_failed_run_names_its_exception_and_the_remedy():
    server = {"error": "KeyError", "text": "'0'"}
    page = Page(render({"end": "failed", "cause": "KeyError: '0'", "serverapp": server}))
    assert "▲ failed: KeyError: '0'" in page.text
    assert CATALOGUE["run.failed"][1] in page.text
    assert "The ServerApp raised KeyError: '0'" in page.text


def test_every_metric_has_a_plot_and_a_table_behind_it():
    page = Page(render(document()))
    assert page.tags.count("svg") == page.tags.count("details") == 3
    assert "accuracy by round" in page.text
    assert "server: 0.4209 in round 1, 0.8754 in round 4" in page.text


def test_one_metric_of_several_parts_is_one_plot():
    rows = [{"round": n, "train": {"loss": 1 / n}, "evaluate": {"loss": 2 / n}} for n in (1, 2)]
    text = render({"rounds": rows})
    assert text.count("<svg") == 1
    assert '<g class="s0">' in text
    assert '<g class="s1">' in text
    assert "evaluate: 2 in round 1" in text


def test_the_page_loads_nothing_and_runs_nothing():
    text = render(document())
    page = Page(text)
    assert set(page.tags).isdisjoint({"script", "link", "img", "iframe", "object", "form", "a"})
    assert not [a for a in page.attributes if a[1] in ("src", "href", "style", "action")]
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert re.search(r"url\(|@import|https?://(?!git\.example)", text) is None


def test_the_policy_allows_its_own_style_alone():
    text = render(document())
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_the_page_is_for_everybody():
    text = render(document())
    page = Page(text)
    assert '<html lang="en">' in text
    assert "<title>Run 7: finished</title>" in text
    assert page.tags.count("h1") == 1
    assert len(set(page.ids)) == len(page.ids)
    named = {v for _, name, v in page.attributes if name == "aria-labelledby" for v in v.split()}
    assert named <= set(page.ids)
    heads = [a for a in page.attributes if a[0] == "th"]
    assert {(name, value) for _, name, value in heads} >= {("scope", "col"), ("scope", "row")}
    assert page.tags.count("th") == sum(name == "scope" for _, name, _ in heads)
    assert page.attributes.count(("svg", "role", "img")) == page.tags.count("svg")
    for words in ("prefers-color-scheme:dark", "@media print", ":focus-visible"):
        assert words in run_report.STYLE


def luminance(color):
    whole = color if len(color) == 6 else "".join(2 * each for each in color)
    parts = [int(whole[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("block", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_has_the_contrast_of_aa(block):
    blocks = re.findall(r":root\{(.*?)\}", run_report.STYLE, re.DOTALL)
    colors = dict(re.findall(r"--(\w+):#([0-9a-f]+)", blocks[block]))
    colors = {**dict(re.findall(r"--(\w+):#([0-9a-f]+)", blocks[0])), **colors}
    page = luminance(colors["page"])
    for name in ("ink", "soft", "ok", "bad", "s0", "s1", "s2"):
        low, high = sorted((page, luminance(colors[name])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


HOSTILE = (
    "</title></style></svg><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&lt;\x1b[2J"
)


def hostile(word):
    """Return a run in which each word that others choose is `word`."""
    rows = [
        {
            "round": number,
            "train": {word: number, f"{word}2": None}, "evaluate": {word: 0.5 * number},
            "server": {word: 2.0}, word: {"loss": 1},
            "replies": {"train": {"results": 0, "failures": 2}, word: {"results": 1}},
            "causes": [word],
        }
        for number in (1, 2)
    ]  # fmt: skip
    texts = (
        "app", "fab_hash", "source", "commit", "by", "pending_at", "running_at", "finished_at",
        "cause", "end", "outputs_gone", "outputs_at",
    )  # fmt: skip
    return {
        **dict.fromkeys(texts, word),
        "config": {word: word},
        "rounds": rows,
        "nodes": [{"node_id": word, "vmid": word}],
        "serverapp": {"error": word, "text": word},
        "outputs": {"count": word, "bytes": word, "files": [
            {"name": word, "bytes": word, "sha256": word}]},
    }  # fmt: skip


@pytest.mark.parametrize("end", [HOSTILE, "failed", "finished"])
@pytest.mark.parametrize("config", [{HOSTILE: HOSTILE}, [[HOSTILE, HOSTILE], [1], "x"]])
def test_every_foreign_word_is_text_in_every_place(end, config):
    text = render({**hostile(HOSTILE), "end": end, "config": config}, HOSTILE)
    page = Page(text)
    assert set(page.tags).isdisjoint({"script", "img"})
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert "\x1b" not in text
    assert "<script" not in text
    assert page.text.count("<script>alert(1)</script>") > 20
    assert page.tags.count("title") == 1 + page.tags.count("svg")


@pytest.mark.parametrize(
    "word", ["\u202egnp.exe", "\u2066x", "a\0b", "\ud800", "a\nb\r\nc", "\x9b31m"]
)
def test_words_that_deceive_lose_what_deceives(word):
    text = render(hostile(word), word)
    assert re.search("[\u202a-\u202e\u2066-\u2069\x00\x9b\ud800]", text) is None
    Page(text)
    text.encode()


@pytest.mark.parametrize(
    "found",
    [
        {}, {"rounds": 7}, {"rounds": [7, None, {"round": "x"}, {"round": -1}, {"round": 1 << 40}]},
        {"rounds": [{"round": 1, "train": [1], "replies": 7, "causes": 7}]},
        {"rounds": [{"round": 1, "train": {"x": 1 << 2000, "y": True, "z": "w"}}]},
        {"rounds": [{"round": 1, "train": {"x": 1e308, "y": -1e308}}] * 3},
        {"nodes": {"a": 1}, "outputs": [1], "config": 7, "serverapp": [1], "end": 7, "cause": []},
        {"nodes": [1, None], "outputs": {"files": [1, {"name": 7, "bytes": True, "sha256": None}]}},
        {"pending_at": "2026-11-30T10:00:00", "finished_at": "2026-11-30T10:00:00+00:00"},
    ],
)  # fmt: skip
def test_files_of_another_shape_make_a_page_all_the_same(found):
    Page(render(found))


def test_a_run_that_goes_on_says_so():
    page = Page(render({"rounds": [{"round": 1, "train": {"loss": 0.5}}]}))
    assert "○ has not ended" in page.text
    assert "None." in page.text
    assert "No files here." in page.text


def test_the_largest_run_is_a_page_of_few_megabytes_within_seconds():
    causes = ["ValueError: " + "x" * 180] * 5
    rows = [
        {
            "round": n, "train": {f"m{k}": float(n * k) for k in range(100)}, "causes": causes,
            "replies": {"train": {"results": 1, "failures": 1}},
        }
        for n in range(1, 5001)
    ]  # fmt: skip
    files = [{"name": f"f{n}" * 50, "bytes": n, "sha256": "a" * 64} for n in range(20_000)]
    begun = time.monotonic()
    text = render({"rounds": rows, "outputs": {"files": files}})
    assert time.monotonic() - begun < 20
    assert len(text) < 8 << 20
    assert "The first 60 of 100 metrics" in text
    assert "of 5000 rounds; all are in metrics.jsonl." in text
    assert "The first 2000; all are in outputs.json." in text
    Page(text)


@pytest.fixture
def vm(tmp_path, monkeypatch):
    paths = Paths(tmp_path / "vm")
    place = paths.runs / "7"
    place.mkdir(parents=True)
    for name in ("run.json", "outputs.json"):
        (place / name).write_bytes((CASE / name).read_bytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return paths


def names(directory):
    return [path.name for path in directory.iterdir()]


def report(vm, capsys, *words):
    code = cli.main(["--root", str(vm.root), "runs", "report", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_writes_one_file_whole(vm, capsys, tmp_path):
    target = tmp_path / "here" / "r.html"
    code, out, _ = report(vm, capsys, "7", "-o", str(target))
    assert (code, out.startswith(f"{target}, ")) == (0, True)
    assert Page(target.read_text(encoding="utf-8")).tags.count("svg") == 3
    assert names(target.parent) == ["r.html"]
    report(vm, capsys, "7", "-o", str(target))
    assert names(target.parent) == ["r.html"]


def test_without_a_name_the_file_has_the_runs(vm, capsys, tmp_path):
    assert report(vm, capsys, "7")[0] == 0
    assert names(tmp_path / "here") == ["run-7.html"]


def test_the_file_has_the_mode_of_the_callers_files(vm, capsys, tmp_path):
    before = os.umask(0o027)
    try:
        report(vm, capsys, "7")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "here/run-7.html").stat().st_mode & 0o777 == 0o640


def test_a_directory_is_not_overwritten(vm, capsys, tmp_path):
    code, _, said = report(vm, capsys, "7", "-o", str(tmp_path))
    assert code == 1
    assert said.startswith(f"state.unwritable: {tmp_path} is a directory\n")
    assert f"fix: Name a file: -o {tmp_path}/run-7.html" in said


def test_a_pipe_is_not_overwritten(vm, capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    code, _, said = report(vm, capsys, "7", "-o", str(tmp_path / "pipe"))
    assert (code, "is no regular file" in said) == (1, True)


def test_a_directory_that_is_not_there_is_named(vm, capsys, tmp_path):
    code, _, said = report(vm, capsys, "7", "-o", str(tmp_path / "none/r.html"))
    assert code == 1
    assert said.startswith(f"state.unwritable: {tmp_path}/none/r.html cannot be written: No such")


def test_an_unknown_run_is_named(vm, capsys, tmp_path):
    code, _, said = report(vm, capsys, "8")
    assert (code, said.startswith("run.unknown: ")) == (1, True)
    assert names(tmp_path / "here") == []

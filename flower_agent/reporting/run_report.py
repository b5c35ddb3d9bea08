"""One run as one HTML file, to be mailed or kept: facts, plots, rounds, failures, files. Pure.

It loads nothing and runs nothing: its policy (CSP level 3, W3C) allows one style by its hash.
Names, metrics, causes and files are an app's or a node's own words, so `text` is the one way into
the page.
"""

import base64
import dataclasses
import datetime
import hashlib
import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flower_agent.model import foreign_text
from flower_agent.model.error_codes import CATALOGUE
from flower_agent.model.errors import counted
from flower_agent.reporting import plots
from flower_agent.reporting.plots import Plot, Point, Series
from flower_agent.runs import outcome, rounds

FIELD_MAX = 500
PLOTS = 60
"""Plots of one report."""

COLUMNS = 6
"""Metrics in the table of rounds; each is in the table below its plot, too."""

ROWS = 500
"""Rows of a table; of more rounds every n-th is shown."""

FILES = 2000
NODES = 1000

_WHOLE_MAX = 1 << 64
_PARTS = ("server", "evaluate", "train")
_STATES = {"finished": ("ok", "●"), "failed": ("bad", "▲"), "stopped": ("off", "■")}

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--page:#fff;--line:#d0d7de;
--ok:#116329;--bad:#a40e26;--s0:#0550ae;--s1:#953800;--s2:#6639ba}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b1;--page:#0d1117;
--line:#3d444d;--ok:#56d364;--bad:#ff8e88;--s0:#79c0ff;--s1:#ffa657;--s2:#d2a8ff}}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:70rem;margin:auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:0 0 .25rem}
.state{font-weight:600}.ok{color:var(--ok)}.bad{color:var(--bad)}.off,.soft{color:var(--soft)}
table{border-collapse:collapse;max-width:100%}
th,td{padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top;overflow-wrap:anywhere}
thead th{white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums}
code{font:.85em ui-monospace,monospace;overflow-wrap:anywhere}
.wide{overflow-x:auto}.plots{display:grid;gap:1.5rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
figure{margin:0;break-inside:avoid}figcaption{font-size:.9rem}
svg{width:100%;height:auto;font:12px system-ui,sans-serif;fill:var(--soft)}
.grid,.axis{fill:none;stroke:var(--line)}.line{fill:none;stroke-width:2}
.s0{color:var(--s0)}.s1{color:var(--s1)}.s2{color:var(--s2)}
.s0 *,.s1 *,.s2 *{stroke:currentColor}
.s0 circle,.s1 rect,.s2 .mark{fill:currentColor;stroke:none}
.s1 .line{stroke-dasharray:8 4}.s2 .line{stroke-dasharray:2 4}
.key{font-weight:600;margin-right:1rem}
:focus-visible{outline:2px solid var(--s0);outline-offset:2px}
@media print{:root{--ink:#000;--soft:#444;--page:#fff;--line:#bbb;--ok:#116329;--bad:#a40e26;
--s0:#0550ae;--s1:#953800;--s2:#6639ba}main{max-width:none;padding:0}.wide{overflow:visible}
tr,figure{break-inside:avoid}h2,h3{break-after:avoid}}
"""
"""Light and dark with contrast AA; a state is a shape and a word before it is a color."""


@dataclasses.dataclass(frozen=True, slots=True)
class RoundRow:
    """One round as a run's files have it."""

    number: int
    metrics: Mapping[tuple[str, str], float | None]
    """By part and name; a value that is no number is left out."""

    replies: Mapping[str, str]
    """``2 results, 0 failures`` by part."""

    causes: tuple[str, ...]
    failed: bool


def render(run_id: str, found: Mapping[str, object], version: str, at: datetime.datetime) -> str:
    """Return the page of a run; `found` is what ``runs show --json`` prints."""
    rows = tuple(_rows(found.get("rounds")))
    end, cause = _word(found.get("end")), _word(found.get("cause"))
    said = outcome.words(end, cause) or "has not ended"
    kind, shape = _STATES.get(end, ("off", "○"))
    if end == "finished" and cause:  # clients failed: not all is well
        kind, shape = "off", "◐"
    body = (
        f"<h1>Run {text(run_id)}</h1>",
        f'<p class="state {kind}">{shape} {text(said)}</p>',
        *_facts(found, rows),
        *_failures(run_id, found, rows),
        *_plots(rows),
        *_table_of_rounds(rows),
        *_nodes(found.get("nodes")),
        *_files(found),
        f'<p class="soft">Made by flower-agent {text(version)} at {_shown_time(at)}.</p>',
    )
    return "\n".join((*_head(f"Run {run_id}: {end or 'not ended'}"), *body, *_TAIL)) + "\n"


def text(value: object, limit: int = FIELD_MAX) -> str:
    """Return anything as text for the page: bounded, without control characters, escaped."""
    clean = foreign_text.printable(str(value), limit=limit)
    return html.escape(" ".join(clean.split()))


def policy() -> str:
    """Return the page's Content-Security-Policy: nothing but its own style."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def size(size_bytes: object) -> str:
    """Return a size for a person, and in bytes."""
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool):
        return "?"
    value, unit = float(min(max(size_bytes, 0), 1 << 62)), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004  # the step between two units
            break
        value, unit = value / 1024, larger
    whole = counted(int(value), "byte")
    return whole if unit == "bytes" else f"{value:.1f} {unit}"


_TAIL = ("</main>", "</body>", "</html>")


def _head(title: str) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy()}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="referrer" content="no-referrer">'
    yield f"<title>{text(title)}</title>"
    yield f"<style>{STYLE}</style>"
    yield "</head>"
    yield "<body>"
    yield "<main>"


def _facts(found: Mapping[str, object], rows: Sequence[RoundRow]) -> Iterator[str]:
    source, commit = _word(found.get("source")), _word(found.get("commit"))
    facts = [
        ("App", _word(found.get("app"))),
        ("SHA-256 of the app", _word(found.get("fab_hash"))),
        ("Source", f"{source} {commit}".strip()),
        ("Submitted by", _word(found.get("by")) or "unknown: flwr run does not say"),
        ("Submitted", _time(found.get("pending_at"))),
        ("Began", _time(found.get("running_at"))),
        ("Ended", _time(found.get("finished_at"))),
        ("Took", _took(found)),
        ("Rounds", str(len(rows)) if rows else ""),
    ]
    config = found.get("config")
    pairs = _pairs(config)
    yield '<section aria-labelledby="facts">'
    yield '<h2 id="facts">Facts</h2>'
    yield from _fact_table("Facts of the run", [fact for fact in facts if fact[1]])
    yield "</section>"
    if pairs:
        yield '<section aria-labelledby="config">'
        yield '<h2 id="config">Config</h2>'
        yield from _fact_table("What the submission set of the app's config", pairs)
        yield "</section>"


def _pairs(config: object) -> list[tuple[str, str]]:
    """Return a config as ``run.json`` has it: an object, or Flower's list of pairs."""
    if isinstance(config, Mapping):
        return sorted((str(key), str(value)) for key, value in config.items())
    found = config if isinstance(config, list) else []
    pair = 2
    return sorted((str(e[0]), str(e[1])) for e in found if isinstance(e, list) and len(e) == pair)


def _fact_table(caption: str, facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f'<div class="wide"><table aria-label="{html.escape(caption)}"><tbody>'
    for name, value in facts:
        yield f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>'
    yield "</tbody></table></div>"


def _failures(run_id: str, found: Mapping[str, object], rows: Sequence[RoundRow]) -> Iterator[str]:
    """Yield what went wrong: cause and remedy in the words of the page of errors."""
    bad = [row for row in rows if row.failed or row.causes]
    server = found.get("serverapp")
    server = server if isinstance(server, Mapping) else {}
    raised = ": ".join(filter(None, (_word(server.get("error")), _word(server.get("text")))))
    end, cause = _word(found.get("end")), _word(found.get("cause"))
    code = {"failed": "run.failed", "finished": "run.clients_failed"}.get(end, "")
    yield '<section aria-labelledby="failures">'
    yield '<h2 id="failures">Failures</h2>'
    if not (bad or raised or (code and cause) or end == "failed"):
        yield "<p>None.</p></section>"
        return
    if code and (cause or end == "failed"):
        yield from _explained(code, cause, run_id)
    if raised:
        yield f"<p>The ServerApp raised <code>{text(raised)}</code></p>"
    if bad:
        yield from _explained("run.client_failed", "", run_id)
        yield from _causes(bad)
    yield "</section>"


def _explained(code: str, cause: str, run_id: str) -> Iterator[str]:
    meaning, remedy = CATALOGUE[code]
    remedy = remedy.replace(" RUN", f" {run_id}")
    yield f"<h3><code>{code}</code></h3>"
    if cause:
        yield f"<p><code>{text(cause)}</code></p>"
    yield f"<p>{text(meaning)}<br>What to do: {text(remedy)}</p>"


def _causes(bad: Sequence[RoundRow]) -> Iterator[str]:
    """Yield each cause with its rounds, the most frequent first."""
    rounds_of: dict[str, list[int]] = {}
    for row in bad:
        for cause in row.causes or ("no reply counted, and the log does not say why",):
            rounds_of.setdefault(cause, []).append(row.number)
    rows = sorted(rounds_of.items(), key=lambda item: (-len(item[1]), item[1][0]))
    yield from _table(
        "Causes of failed replies",
        (("Cause", ""), ("Rounds", "n"), ("First", "n"), ("Last", "n")),
        ((text(c), str(len(n)), str(min(n)), str(max(n))) for c, n in rows[:ROWS]),
    )


def _plots(rows: Sequence[RoundRow]) -> Iterator[str]:
    found = _plotted(rows)
    yield '<section aria-labelledby="metrics">'
    yield '<h2 id="metrics">Metrics by round</h2>'
    if not found:
        yield "<p>The run's log has no metrics of Flower's strategies.</p></section>"
        return
    if len(found) > PLOTS:
        yield f"<p>The first {PLOTS} of {len(found)} metrics; all are in metrics.jsonl.</p>"
    yield '<div class="plots">'
    for number, plot in enumerate(found[:PLOTS]):
        yield from _figure(plot, number)
    yield "</div></section>"


def _plotted(rows: Sequence[RoundRow]) -> list[Plot]:
    """Return a plot of each metric, with a line for each part of the rounds that has it."""
    keys = dict.fromkeys(key for row in rows for key in row.metrics)
    names = sorted({name for _, name in keys})
    return [
        Plot(
            name,
            tuple(
                Series(part, tuple(_points(rows, (part, name))))
                for part in _PARTS
                if (part, name) in keys
            ),
        )
        for name in names
    ]


def _points(rows: Sequence[RoundRow], key: tuple[str, str]) -> Iterator[Point]:
    for row in rows:
        yield row.number, row.metrics.get(key)


def _figure(plot: Plot, number: int) -> Iterator[str]:
    yield f'<figure aria-labelledby="p{number}h">'
    title = text(plot.title)
    clean = dataclasses.replace(plot, title=html.unescape(title))
    yield f'<h3 id="p{number}h">{title}</h3>'
    yield plots.svg(clean, f"p{number}")
    shapes = zip(("●", "■", "▲"), plot.series, strict=False)
    keys = (f'<span class="key s{n}">{s} {e.name}</span>' for n, (s, e) in enumerate(shapes))
    yield f"<figcaption>{''.join(keys)}</figcaption>"
    yield "<details><summary>Values</summary>"
    by_round = [dict(each.points) for each in plot.series]
    shown = _shown([n for n, _ in plot.series[0].points])
    yield from _table(
        f"{clean.title} by round",
        (("Round", "n"), *((each.name, "n") for each in plot.series)),
        ((str(n), *(_value(values.get(n)) for values in by_round)) for n in shown),
    )
    yield "</details></figure>"


def _table_of_rounds(rows: Sequence[RoundRow]) -> Iterator[str]:
    yield '<section aria-labelledby="rounds">'
    yield '<h2 id="rounds">Rounds</h2>'
    if not rows:
        yield "<p>The run's log has no rounds of Flower's strategies.</p></section>"
        return
    keys = _columns(rows)
    parts = [part for part in ("train", "evaluate") if any(part in row.replies for row in rows)]
    numbers = set(_shown([row.number for row in rows]))
    shown = [row for row in rows if row.number in numbers]
    if len(shown) < len(rows):
        yield f"<p>{len(shown)} of {len(rows)} rounds; all are in metrics.jsonl.</p>"
    yield from _table(
        "Rounds with replies, metrics and failures",
        (
            ("Round", "n"),
            *((f"{part}: replies", "") for part in parts),
            *((f"{part} {name}", "n") for part, name in keys),
            ("Failures", ""),
        ),
        (
            (
                str(row.number),
                *(text(row.replies.get(part, "")) for part in parts),
                *(_value(row.metrics.get(key)) for key in keys),
                "<br>".join(text(cause) for cause in row.causes),
            )
            for row in shown
        ),
    )
    yield "</section>"


def _columns(rows: Sequence[RoundRow]) -> list[tuple[str, str]]:
    """Return the metrics of the table, those of the ServerApp before those of the nodes."""
    keys = {key for row in rows for key in row.metrics}
    return sorted(keys, key=lambda key: (_PARTS.index(key[0]), key[1]))[:COLUMNS]


def _nodes(found: object) -> Iterator[str]:
    rows = [e for e in found if isinstance(e, Mapping)] if isinstance(found, list) else []
    if not rows:
        return
    yield '<section aria-labelledby="nodes">'
    yield f'<h2 id="nodes">SuperNodes ({len(rows)})</h2>'
    yield from _table(
        "SuperNodes that were connected",
        (("Node", ""), ("VM", "")),
        ((text(e.get("node_id") or "?"), text(e.get("vmid") or "-")) for e in rows[:NODES]),
    )
    yield "</section>"


def _files(found: Mapping[str, object]) -> Iterator[str]:
    listed = found.get("outputs")
    listed = listed if isinstance(listed, Mapping) else {}
    rows = listed.get("files")
    rows = [e for e in rows if isinstance(e, Mapping)] if isinstance(rows, list) else []
    yield '<section aria-labelledby="outputs">'
    yield '<h2 id="outputs">Outputs</h2>'
    for name, words in (("outputs_gone", "Gone"), ("outputs_at", "They are on")):
        if found.get(name):
            yield f"<p>{words}: {text(found[name])}</p>"
    if not rows:
        yield "<p>No files here.</p></section>"
        return
    total, count = listed.get("bytes"), listed.get("count")
    count = count if isinstance(count, int) else len(rows)
    yield f"<p>{counted(count, 'file')}, {size(total)}</p>"
    if len(rows) > FILES:
        yield f"<p>The first {FILES}; all are in outputs.json.</p>"
    yield from _table(
        "Files that the run left",
        (("Name", ""), ("Size", "n"), ("SHA-256", "")),
        (
            (
                text(e.get("name", "?")),
                size(e.get("bytes")),
                f"<code>{text(e.get('sha256', '?'))}</code>",
            )
            for e in rows[:FILES]
        ),
    )
    yield "</section>"


def _table(
    caption: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]
) -> Iterator[str]:
    """Yield a table; the cells of `rows` are ready for the page, the rest is text."""
    classes = [f' class="{kind}"' if kind else "" for _, kind in columns]
    heads = zip(columns, classes, strict=True)
    yield f'<div class="wide"><table aria-label="{text(caption)}"><thead><tr>'
    yield "".join(f'<th scope="col"{kind}>{text(name)}</th>' for (name, _), kind in heads)
    yield "</tr></thead><tbody>"
    for first, *cells in rows:
        rest = zip(cells, classes[1:], strict=True)
        yield (
            f'<tr><th scope="row"{classes[0]}>{first}</th>'
            + "".join(f"<td{kind}>{cell}</td>" for cell, kind in rest)
            + "</tr>"
        )
    yield "</tbody></table></div>"


def _shown(numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the rounds that a table shows: all, or every n-th and the last."""
    if len(numbers) <= ROWS:
        return tuple(numbers)
    step = math.ceil(len(numbers) / (ROWS - 1))
    return (*numbers[:-1:step], numbers[-1])


def _rows(found: object) -> Iterator[RoundRow]:
    """Yield the rounds of a run; what has another shape is left out."""
    seen: set[int] = set()
    for each in found if isinstance(found, list) else []:
        if not isinstance(each, Mapping) or type(each.get("round")) is not int:
            continue
        number = each["round"]
        if number in seen or not 0 <= number < 1 << 31:
            continue
        seen.add(number)
        replies = each.get("replies")
        counts = [
            (part, n["results"], n["failures"])
            for part, n in (replies.items() if isinstance(replies, Mapping) else ())
            if isinstance(n, Mapping)
            and all(type(n.get(k)) is int for k in ("results", "failures"))
        ]
        causes = each.get("causes")
        yield RoundRow(
            number,
            {(p, n): v for p in _PARTS for n, v in _metrics(each.get(p))},
            {part: rounds.tally(good, bad) for part, good, bad in counts},
            tuple(str(cause) for cause in causes) if isinstance(causes, list) else (),
            any(bad or not good for _, good, bad in counts),
        )


def _metrics(found: object) -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of one part; lists of numbers are left out."""
    for name, value in found.items() if isinstance(found, Mapping) else ():
        if value is None:
            yield str(name), None
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if isinstance(value, int) and abs(value) >= _WHOLE_MAX:
                continue
            if math.isfinite(value):
                yield str(name), float(value)


def _value(value: float | None) -> str:
    return "" if value is None else plots.number(value)


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> str:
    """Return Flower's ISO text as people read it; other text as it is."""
    try:
        return _shown_time(datetime.datetime.fromisoformat(_word(value)))
    except (OverflowError, ValueError):
        return _word(value)


def _shown_time(at: datetime.datetime) -> str:
    return f"{at.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC" if at.tzinfo else str(at)


def _took(found: Mapping[str, object]) -> str:
    try:
        began = datetime.datetime.fromisoformat(_word(found.get("pending_at")))
        ended = datetime.datetime.fromisoformat(_word(found.get("finished_at")))
        seconds = int((ended - began).total_seconds())
    except (TypeError, ValueError):
        return ""
    return str(datetime.timedelta(seconds=seconds)) if seconds >= 0 else ""

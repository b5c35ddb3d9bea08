"""Measures the agent beside what it is compared with, and writes docs/performance.md's tables.

Names of measurements on the command line: `commands`, `begin`; `starts`, `cold`, `reactions`,
`daemon` and `apps` (root, Docker and Flower's images); `storm` (no real time passes),
`ten-thousand` (the same, larger); `packages` (builds a deb; a VM image by `--image`); without a
name all but the last two. Each writes its own part of the page: it is as old as that measurement's
last run.
"""

import argparse
import pathlib
import statistics
import sys

import structlog

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACES = ("sandbox", "templates")
sys.path[:0] = [str(ROOT / "contrib" / name) for name in PLACES]

import apps  # noqa: E402 - found beside this file, the sandbox by the line above
import commands  # noqa: E402
import daemon  # noqa: E402
import packages  # noqa: E402
import reactions  # noqa: E402
import starts  # noqa: E402
import storm  # noqa: E402

PAGE = ROOT / "docs/performance.md"
BASE_PORT = 28600
MINUTE_S = 60.0
SCRIPTS = "the same on the script's federation"
USUAL = ("commands", "begin", "starts", "cold", "reactions", "daemon", "apps", "storm")


def main():
    """Measure what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--times", type=int, default=7, help="samples of each (default 7)")
    parser.add_argument("--idle", type=int, default=600, help="seconds of rest (default 600)")
    parser.add_argument("--image", metavar="FILE", help="a QCOW2 of contrib/image/build")
    parser.add_argument("--base-port", type=int, default=BASE_PORT)
    parser.add_argument("--print", action="store_true", help="leave docs/performance.md as it is")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    unknown = set(options.names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"no measurement is called {', '.join(sorted(unknown))}")
    for name in options.names or USUAL:
        text = MEASUREMENTS[name](options)
        print(text, flush=True)
        if not options.print:
            PAGE.write_text(replaced(PAGE.read_text(), name, text))
    return 0


def of_commands(options):
    """Return the table of the commands."""
    found = commands.measure(options.times)
    bare = [median(found[commands.BARE], part) for part in range(3)]
    rows = []
    for name, taken in found.items():
        ratios = [times(median(taken, part) / bare[part]) for part in range(3)]
        rows.append((f"`{name}`", ratios[0], spread(taken, 0), *ratios[1:]))
    return table(("command", "wall time", "its spread", "processor time", "memory"), rows)


def of_begin(options):
    """Return the table of the daemon's own start."""
    found = [(taken,) for taken in commands.begin(options.times)]
    row = ("its process until the context is read", "0.5 s", times(median(found, 0) / 0.5))
    return table(("from", "beside", "ratio", "spread"), [(*row, spread(found, 0))])


def of_starts(options, *, cold=False):
    """Return the table of the starts."""
    found = starts.measure(ROOT / "build/bench", options.base_port, options.times, cold=cold)
    rows = []
    for role, shown in (("superlink", "SuperLink"), ("supernode", "SuperNode")):
        agent, script = found["agent", role], found["script", role]
        for part, until in enumerate(("containers run", "`READY=YES` at OneGate")):
            ratio = median(agent, part) / median(script, part)
            rows.append((shown, until, times(ratio), spread(agent, part), spread(script, part)))
    head = ("VM", "from the context until", "agent / script", "agent, spread", "script, spread")
    return table(head, rows)


def of_cold(options):
    """Return the table of the first starts after a boot."""
    return of_starts(options, cold=True)


def of_reactions(options):
    """Return the table of what the agent reacts to."""
    found = reactions.measure(ROOT / "build/bench", options.base_port, options.times)
    pairs = (
        ("changed context to the new container's start", "`docker restart`", "changed", "restart"),
        (
            "SuperLink's READY to that of a SuperNode that waited",
            "a SuperNode's start beside a SuperLink that is there",
            "late",
            "there",
        ),
    )
    rows = []
    for what, beside, name, other in pairs:
        own, its = ([(taken,) for taken in found[each]] for each in (name, other))
        rows.append(
            (what, beside, times(median(own, 0) / median(its, 0)), spread(own, 0), spread(its, 0))
        )
    return table(("from", "beside", "ratio", "spread", "spread of the other"), rows)


def of_daemon(options):
    """Return the table of the daemon at rest, and of killed containers."""
    place = ROOT / "build/bench"
    found = daemon.measure(place, options.base_port, options.times, options.idle)
    agent, bare = found["memory"]
    own, docker = ([(taken,) for taken in found["restarts"][way]] for way in ("agent", "docker"))
    ratio = times(median(own, 0) / median(docker, 0))
    restart = f"{ratio}, {spread(own, 0)}; of Docker {spread(docker, 0)}"
    rows = (
        ("resident memory, SuperLink", "its libraries alone", times(agent / bare)),
        ("the same", "72 MiB", times(agent / 72)),
        ("processor at rest, SuperLink", "one core", f"{found['cpu']:.2%}"),
        ("end of a killed container to its next start", "Docker's restart policy", restart),
        ("the longest of these", "a second", times(max(own)[0])),
    )
    return table(("what", "beside", "ratio"), rows)


def of_apps(options):
    """Return the table of the apps: what a run takes, and how soon a dead ClientApp is told."""
    found = apps.measure(ROOT / "build/bench", options.base_port, options.times)
    own, its, killed = (
        [(taken,) for taken in found[each]]
        for each in (("run", "agent"), ("run", "script"), "killed")
    )
    ratio, dead = times(median(own, 0) / median(its, 0)), times(median(killed, 0) / MINUTE_S)
    rows = (
        ("run of three rounds, warm", SCRIPTS, ratio, spread(own, 0), spread(its, 0)),
        ("a killed ClientApp to the warning", "a minute", dead, spread(killed, 0), ""),
    )
    return table(("what", "beside", "ratio", "spread", "spread of the other"), rows)


def of_packages(options):
    """Return the table of what is installed."""
    found = packages.package(ROOT / "build/bench-package")
    wheels, unpacked = "the wheels of its libraries", "the same wheels, unpacked"
    rows = [
        ("package (deb, Debian 12)", wheels, times(found["deb"] / found["wheels"])),
        ("what it installs", unpacked, times(found["installed"] / found["unpacked"])),
        ("the agent's own modules", "what is installed", times(found["own"] / found["installed"])),
    ]
    if options.image:
        image, superexec = packages.image(options.image)
        rows.append(("VM image", f"Docker's `{packages.SUPEREXEC}`", times(image / superexec)))
    return table(("bytes of", "beside", "ratio"), rows)


def of_storms(tries):
    """Return the table of some storms, one column each."""
    results = [storm.run(each) for _, each in tries]
    lines = (
        ("half of the SuperNodes ready after", lambda r: f"{r.half_s:.0f} s"),
        ("OneGate knows all of them ready after", lambda r: f"{r.ready_s:.0f} s"),
        ("bodies of each until then", lambda r: f"{r.puts:.2f}"),
        ("look-ups of each until then", lambda r: f"{r.looks:.2f}"),
        ("requests that failed until then", lambda r: str(r.failed)),
        ("requests in the busiest second", lambda r: str(r.burst)),
        ("later, in the busiest second", lambda r: str(r.calm)),
        ("later, on average a second", lambda r: f"{r.mean:.2f}"),
        ("busiest second after two minutes without OneGate", lambda r: str(r.back)),
        ("reports lost", lambda r: str(r.lost)),
        ("one SuperLink's own requests a minute, later", lambda r: f"{r.link_a_minute:.1f}"),
    )
    rows = [(name, *map(show, results)) for name, show in lines]
    return table(("", *(name for name, _ in tries)), rows)


def of_storm(_):
    """Return what a thousand do, and what they would do otherwise."""
    return of_storms(
        (
            ("200", storm.Storm(200)),
            ("1,000", storm.Storm(1000)),
            ("1,000 without keys", storm.Storm(1000, keys=False)),
            ("1,000 without chance", storm.Storm(1000, still=True)),
            ("1,000, OneGate answers 60 a second", storm.Storm(1000, a_second=60)),
            ("1,000, OneGate is away at first", storm.Storm(1000, dark_s=storm.OUTAGE_S)),
        )
    )


def of_ten_thousand(_):
    """Return what ten services of a thousand do at one OneGate."""
    return of_storms((("10 times 1,000", storm.Storm(10_000, services=10)),))


def table(head, rows):
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def replaced(page, name, text):
    """Return the page with another text between a measurement's markers."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    before, rest = page.split(begin)
    return before + begin + text + end + rest.split(end)[1]


def median(samples, part):
    return statistics.median(sample[part] for sample in samples)


def spread(samples, part):
    """Return the least and the most of the samples, as parts of their median."""
    middle = median(samples, part)
    values = [sample[part] / middle for sample in samples]
    return f"{min(values):.2f} to {max(values):.2f}"


def times(ratio):
    return f"{ratio:.2f}"


MEASUREMENTS = {
    "commands": of_commands,
    "begin": of_begin,
    "starts": of_starts,
    "cold": of_cold,
    "reactions": of_reactions,
    "daemon": of_daemon,
    "apps": of_apps,
    "storm": of_storm,
    "ten-thousand": of_ten_thousand,
    "packages": of_packages,
}

if __name__ == "__main__":
    sys.exit(main())

"""What strangers write, against a real federation whose agents must go on turning.

Apps, peers, a git server and local users each try what once froze, starved or misled an agent. All
the while the age of each VM's status file is measured: an agent that stands still writes none.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import threading
import time

import pytest
import small_apps
from vms import ids, put, ready, restart, state_file, warns
from watched import WatchedFederation, wait_for

from flower_agent.reporting.publisher import REWRITE_S

PORT, GIT_PORT = 27720, 27790
OLDEST_S = 3 * REWRITE_S
"""The status of an agent that turns is never so old, on a machine under load either."""

NESTED = "fit progress: (1, 1, {" * 60_000
OWNED = r"\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07\x9b31m\u202e"
WIDE, DEEP = 16, 8
"""A git tree of so many entries in so many levels names 4 thousand million files."""

pytestmark = [pytest.mark.engine, pytest.mark.federation]


class Ages(threading.Thread):
    """Measures how old status files become."""

    def __init__(self, paths):
        super().__init__(name="ages", daemon=True)
        self._paths, self._end = paths, threading.Event()
        self.oldest_s = 0.0

    def run(self):
        while not self._end.wait(0.2):
            for path in self._paths:
                with contextlib.suppress(FileNotFoundError):
                    self.oldest_s = max(self.oldest_s, time.time() - path.stat().st_mtime)

    def close(self):
        self._end.set()
        self.join()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, images):
    """Return a federation whose apps run inside the containers that agents read logs of."""
    federation = WatchedFederation(
        tmp_path_factory.mktemp("attacked"),
        name="attacked",
        base_port=PORT,
        variables={"FLOWER_ISOLATION": "subprocess", "ML_FRAMEWORK": ""},
        environment={"FLOWER_AGENT_TIME_SCALE": "0.1"},
        say=lambda _: None,
    )
    try:
        federation.up()
        yield federation
    finally:
        federation.down()


@pytest.fixture(scope="module")
def ages(attacked):
    """Measure from the first attack on; at the end each agent must turn once more."""
    ages = Ages([m.root / "run/flower-agent/status.json" for m in attacked.machines])
    ages.start()
    yield ages
    begun = time.time()
    for machine in attacked.machines:
        path = machine.root / "run/flower-agent/status.json"
        wait_for(lambda path=path: path.stat().st_mtime > begun, machine.name, OLDEST_S)
    ages.close()
    assert ages.oldest_s < OLDEST_S


@pytest.fixture(autouse=True)
def turning(attacked, ages):
    """Hold that no agent stood still, and that all are ready after an attack."""
    yield
    for machine in attacked.machines:
        ready(attacked, machine)
    assert ages.oldest_s < OLDEST_S


@pytest.fixture
def submit(attacked, tmp_path):
    """Submits a small app and returns its run's id and what `submit` printed."""

    def run(**behaviour):
        app = small_apps.write(tmp_path, "attack", **behaviour)
        done = attacked.agent(attacked.superlink, "submit", str(app))
        found = re.search(r"^run (\d+):", done.stdout, re.MULTILINE)
        assert found, done
        return found[1], done.stdout

    return run


def resident_kib(pid):
    """Return the most memory that a process ever had."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1])


def shown(federation, *command, machine=None):
    return federation.agent(machine or federation.superlink, *command).stdout


def record(federation, run_id):
    return json.loads(state_file(federation.superlink, f"runs/{run_id}/run.json").read_text())


def test_a_reply_whose_error_is_a_log_of_its_own(attacked, submit):
    error = f'"[ROUND 77/78]\\n" + {NESTED[:22]!r} * 60_000'
    run_id, said = submit(client=f"raise ValueError({error})")
    assert "0 of 2 results" in said
    known = record(attacked, run_id)
    assert known["end"] == "failed"
    assert len(known["rounds"]) < 4  # forged ones are the app's own words, and few
    assert len(json.dumps(known)) < 1 << 20
    assert len(shown(attacked, "runs", "show", run_id)) < 1 << 16


def test_a_client_that_prints_what_looks_like_flowers_own_end(attacked, submit):
    run_id, _ = submit(client='print("Path argument " * 60_000, flush=True)')
    assert record(attacked, run_id)["end"] == "finished"


def test_output_that_hangs_a_redaction(attacked, submit, tmp_path):
    submit(client="print('a-' * 100_000, flush=True)", server="print('a-' * 100_000, flush=True)")
    archive = tmp_path / "support.tar.gz"
    done = attacked.agent(attacked.supernodes[0], "support", "-o", str(archive))
    assert done.returncode == 0, done
    assert archive.stat().st_size < 16 << 20


def test_output_that_writes_to_terminals(attacked, submit):
    run_id, said = submit(
        client=f'print("{OWNED}", flush=True)', server=f'raise ValueError("{OWNED}")'
    )
    said += shown(attacked, "runs") + shown(attacked, "runs", "show", run_id)
    said += shown(attacked, "runs", "log", run_id) + shown(attacked, "logs")
    said += shown(attacked, "logs", machine=attacked.supernodes[0])
    assert "owned" in said
    left = re.sub("\x1b\\[[0-9;]*m", "", said)  # colours may stay
    assert set(left) & {"\x1b", "\x07", "\x9b", "\u202e"} == set()


@pytest.fixture
def repository(tmp_path):
    """A directory of repositories behind git's own daemon; returns a maker of one."""
    where = [f"--base-path={tmp_path}", "--listen=127.0.0.1", f"--port={GIT_PORT}", "--reuseaddr"]

    def git(place, *arguments, given=""):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", *who, *arguments],
            cwd=place, input=given, check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout.strip()

    def make(name, tree):
        place = tmp_path / name
        place.mkdir()
        git(place, "init", "-q", "-b", "main")
        made = tree(lambda *words, **more: git(place, *words, **more))
        commit = git(place, "commit-tree", "-m", "attack", made)
        git(place, "update-ref", "refs/heads/main", commit)
        return f"git://127.0.0.1:{GIT_PORT}/{name}@main"

    with subprocess.Popen(["git", "daemon", "--export-all", *where, tmp_path]) as daemon:
        yield make
        daemon.terminate()


def nested(git):
    """Return a tree that is small on the wire and endless when it is walked."""
    blob = git("hash-object", "-w", "--stdin", given="x")
    kind, entry = "100644 blob", blob
    for _ in range(DEEP):
        rows = "".join(f"{kind} {entry}\te{number}\n" for number in range(WIDE))
        kind, entry = "040000 tree", git("mktree", given=rows)
    return entry


def dotted(git):
    """Return an app whose pyproject.toml is as deep as TOML lets it be."""
    text = ".".join(["a"] * 20_000) + " = 1\nb = " + "[" * 20_000 + "]" * 20_000 + "\n"
    blob = git("hash-object", "-w", "--stdin", given=text)
    return git("mktree", given=f"100644 blob {blob}\tpyproject.toml\n")


@pytest.mark.parametrize("tree", [nested, dotted])
def test_a_repository_made_to_be_read_for_ever(attacked, repository, tree):
    link = attacked.superlink
    url = repository(tree.__name__, tree)
    try:
        attacked.write_context(link, {**link.variables, "CUSTOM_APP_REPO": url})
        wait_for(
            lambda: any(w["code"].startswith("run.") for w in attacked.status(link)["warnings"]),
            "the app is refused",
            90,
        )
        assert resident_kib(attacked.status(link)["pid"]) < 256 * 1024
    finally:
        attacked.write_context(link, link.variables)


def test_words_that_another_vm_of_the_service_writes(attacked):
    link, (node, other) = attacked.superlink, attacked.supernodes
    head = (other.root / "run/one-context/one_env").read_text()
    token = re.search(r'TOKENTXT="([^"]*)"', head)[1]
    before = ids(link), ids(node)
    put(attacked, token, other.vmid, link.vmid, FLOWER_VERSION="9.9", READY="NO", FLOWER_TLS="NO",
        FLOWER_STATE="failed", FLOWER_NODE_AUTH="NO")  # fmt: skip
    put(attacked, token, other.vmid, node.vmid, FLOWER_ROLE="superexec")
    for name, value in (
        ("FLOWER_VERSION", "1.25.0"),
        ("READY", "YES"),
        ("FLOWER_TLS", "YES"),
        ("FLOWER_STATE", "ready"),
    ):
        wait_for(lambda name=name, value=value: value in attacked.attributes(link)[name], name, 90)
    restart(attacked, node)
    ready(attacked, node)
    assert (ids(link), ids(node)) == before


def test_a_user_who_takes_the_locks(attacked):
    node = attacked.supernodes[0]
    locks = [*(node.root / "run/flower-agent").glob("*lock*")]
    assert locks
    for path in locks:
        code = f"import fcntl,os; fcntl.flock(os.open({str(path)!r}, os.O_RDONLY), fcntl.LOCK_EX)"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", code],
            user=65534, group=65534, extra_groups=[], check=False, capture_output=True, timeout=60,
        )  # fmt: skip
        assert b"PermissionError" in done.stderr, done
    restart(attacked, node)


def test_a_status_file_that_is_no_status(attacked):
    node = attacked.supernodes[1]
    attacked.stop_agent(node)
    path = node.root / "run/flower-agent/status.json"
    whole = path.read_text()
    for text in ("[" * 50_000, json.dumps({**json.loads(whole), "facts": 7}), "\0" * 100):
        path.write_text(text)
        done = attacked.agent(node, "status")
        assert done.returncode == 4, done
        assert "Traceback" not in done.stdout + done.stderr
    path.unlink()
    attacked.start_agent(node)


def test_a_onegate_that_drips(attacked):
    attacked.cloud.fault("drip", seconds=60)
    try:
        for machine in attacked.machines:
            restart(attacked, machine)
            ready(attacked, machine)
            warns(attacked, machine, "onegate.down", timeout_s=120)
    finally:
        attacked.cloud.heal()

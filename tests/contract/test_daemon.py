"""The daemon as a process, without a Docker Engine: what systemd and an operator see of it."""

import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = pathlib.Path(__file__).parents[2]


class Daemon:
    """``flower-agent run`` under a root of its own, with a Docker socket that is not there."""

    def __init__(self, root):
        self.root = root
        self.notified = []
        self._address = f"\0flower-agent-test-{os.getpid()}-{root.name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._socket.settimeout(0.05)
        self.environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{root}/docker.sock",
            "NOTIFY_SOCKET": "@" + self._address[1:],
            "FLOWER_AGENT_TIME_SCALE": "0.05",
        }
        self.name = f"daemon-{root.name.replace('_', '-')}"[:40].lower()
        self.process = None

    def start(self):
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run"), env=self.environment, cwd=ROOT, stdout=log, stderr=log
            )

    def command(self, *words):
        where = ["--root", str(self.root), "--name", self.name]
        return [sys.executable, "-m", "flower_agent", words[0], *where, *words[1:]]

    def ask(self, *words):
        return subprocess.run(
            self.command(*words), env=self.environment, cwd=ROOT, check=False,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def context(self, text, stage="network"):
        directory = self.root / "run/one-context"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"context.sh.{stage}").write_text(text)

    def status(self):
        path = self.root / "run/flower-agent/status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def wait(self, true, what):
        end = time.monotonic() + 30
        while not true():
            assert time.monotonic() < end, f"never came: {what}; {(self.root / 'log').read_text()}"
            try:
                self.notified += self._socket.recv(4096).decode().splitlines()
            except TimeoutError:
                continue

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()
        self._socket.close()


@pytest.fixture
def daemon(tmp_path):
    made = Daemon(tmp_path)
    yield made
    made.close()


def test_systemd_hears_ready_early_then_why_it_waits_and_that_it_lives(daemon):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(lambda: "READY=1" in daemon.notified, "READY=1")
    daemon.wait(lambda: any("docker.down" in line for line in daemon.notified), "the reason")
    daemon.wait(lambda: daemon.notified.count("WATCHDOG=1") > 2, "a sign of life")


def test_a_docker_engine_that_is_not_there_is_named_and_waited_for(daemon):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(
        lambda: (daemon.status().get("error") or {}).get("code") == "docker.down", "docker.down"
    )
    assert daemon.status()["phase"] == "docker"
    shown = daemon.ask("status")
    assert shown.returncode == 5
    assert "docker.sock" in shown.stdout


@pytest.mark.parametrize("to", ["the process", "another thread"])
def test_sigterm_ends_it_with_status_0(daemon, to):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(daemon.status, "a status")
    pid = daemon.process.pid
    if to == "the process":
        daemon.process.send_signal(signal.SIGTERM)
    else:  # as the kernel may choose
        threads = [int(path.name) for path in pathlib.Path(f"/proc/{pid}/task").iterdir()]
        chosen = next(thread for thread in threads if thread != pid)
        assert ctypes.CDLL(None).tgkill(pid, chosen, signal.SIGTERM) == 0
    assert daemon.process.wait(10) == 0
    assert daemon.ask("status").returncode == 3


def test_a_context_that_comes_late_is_taken_at_once(daemon):
    daemon.start()
    daemon.wait(lambda: daemon.status().get("phase") == "context", "waiting for a context")
    daemon.context(
        "FLOWER_ROLE='client'\nFLOWER_SERVER_ADDRESS='10.0.0.5'\nTLS_CA_CERT='system'\n",
        stage="local",
    )
    daemon.wait(lambda: daemon.status().get("role") == "supernode", "the role")


def test_a_missing_context_fails_after_a_while_and_says_so(daemon):
    daemon.start()
    daemon.wait(lambda: daemon.status().get("state") == "failed", "failed")
    assert daemon.status()["error"]["code"] == "context.missing"
    assert daemon.ask("status").returncode == 1


def test_sighup_reads_the_context_anew_though_nothing_tells_that_it_changed(daemon):
    daemon.context("FLOWER_ROLE='server'\nFLOWER_VERSION='1.25.0'\n")
    daemon.start()
    daemon.wait(lambda: daemon.status().get("version") == "1.25.0", "the version")
    file = daemon.root / "run/one-context/context.sh.network"
    seen = file.stat()
    with file.open("r+") as stream:  # the same inode and size, and below the same time
        stream.write("FLOWER_ROLE='server'\nFLOWER_VERSION='1.24.0'\n")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait(lambda: daemon.status().get("version") == "1.24.0", "the new version")


def test_a_plan_tells_what_stands_in_the_way_as_text_and_as_json(daemon):
    daemon.context("FLOWER_ROLE='server'\nTLS_ENABLED='NO'\n")
    shown = daemon.ask("plan")
    words = f"Docker does not answer at unix://{daemon.root}/docker.sock: its socket is not there"
    assert shown.stdout.splitlines() == [
        "warning: tls.disabled: TLS_ENABLED is NO: models and updates travel in the clear",
        "  fix: Set TLS_ENABLED=YES on every VM of the federation.",
        f"then waits in phase docker: docker.down: {words}",
        "  fix: systemctl status docker; journalctl -u docker -n 50; then: systemctl start docker",
    ]
    found = json.loads(daemon.ask("plan", "--json").stdout)
    jsonschema.validate(found, json.loads((ROOT / "docs/plan.schema.json").read_text()))
    assert (found["ok"], found["steps"], found["waits"]["phase"]) == (True, [], "docker")
    assert [f["code"] for f in found["findings"]] == ["tls.disabled"]
    daemon.context("FLOWER_ROLE='bogus'\n")
    refused = daemon.ask("plan", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["ok"]) == (1, False)


def test_the_journal_has_a_line_for_each_change_and_none_for_a_turn(daemon):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(lambda: (daemon.status().get("error") or {}).get("code") == "docker.down", "down")

    def lines():
        return (daemon.root / "log").read_text().splitlines()

    before, turns = lines(), daemon.notified.count("WATCHDOG=1")
    told = [json.loads(line)["event"] for line in before]
    assert told == ["agent.start", "context.read", "state.cause"]
    daemon.wait(lambda: daemon.notified.count("WATCHDOG=1") > turns + 20, "twenty turns")
    assert lines() == before
    daemon.context("FLOWER_ROLE='bogus'\n")
    daemon.wait(lambda: daemon.status().get("state") == "failed", "failed")
    told = [json.loads(line)["event"] for line in lines()[len(before) :]]
    assert told == ["context.finding", "state.failed"]


def test_status_with_wait_ends_though_no_agent_runs(daemon):
    done = daemon.ask("status", "--wait", "--timeout", "1s")
    assert done.returncode == 3
    assert done.stdout.startswith("not running")


def test_status_with_wait_says_that_its_time_is_over(daemon):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(daemon.status, "a status")
    assert daemon.ask("status", "--wait", "--timeout", "1s").returncode == 124


def test_status_that_is_watched_tells_changes_and_not_the_time(daemon):
    daemon.context("FLOWER_ROLE='bogus'\n")
    daemon.start()
    daemon.wait(lambda: daemon.status().get("state") == "failed", "failed")
    watching = subprocess.Popen(
        daemon.command("status", "--watch"), env=daemon.environment, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with watching:
        first = watching.stdout.readline()
        daemon.context("FLOWER_ROLE='server'\n")
        second = watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        rest, _ = watching.communicate(timeout=30)
    assert "failed for" in first
    assert first.rstrip().endswith("setting.invalid")
    assert "phase docker" in second
    assert (rest, watching.returncode) == ("", 130)


def test_the_screen_has_color_only_where_it_is_a_terminal(daemon):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(daemon.status, "a status")
    assert "\x1b" not in daemon.ask("status").stdout

    def on_a_terminal(**environment):
        ours, theirs = os.openpty()
        subprocess.run(
            daemon.command("status"), cwd=ROOT, check=False, stdout=theirs,
            env={**daemon.environment, "TERM": "xterm", **environment},
        )  # fmt: skip
        os.close(theirs)
        with os.fdopen(ours, "rb") as terminal:
            return terminal.read1(65536)

    assert b"\x1b[33mstarting\x1b[0m" in on_a_terminal()
    assert b"\x1b" not in on_a_terminal(NO_COLOR="1")


def test_metrics_are_there_while_they_are_wanted_and_the_agent_lives(daemon):
    path = daemon.root / "run/flower-agent/metrics/flower-agent.prom"
    daemon.context("FLOWER_ROLE='server'\nFLOWER_METRICS='YES'\n")
    daemon.start()
    daemon.wait(path.exists, "metrics")
    families = {f.name for f in text_string_to_metric_families(path.read_text())}
    assert {"flower_agent_info", "flower_agent_state"} <= families
    assert path.stat().st_mode & 0o777 == 0o644
    daemon.context("FLOWER_ROLE='server'\nFLOWER_METRICS='NO'\n")
    daemon.wait(lambda: not path.exists(), "metrics that are gone")
    daemon.context("FLOWER_ROLE='server'\nFLOWER_METRICS='YES'\n")
    daemon.wait(path.exists, "metrics")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 0
    assert not path.exists()


def test_status_of_a_killed_agent_is_not_running_and_tells_its_last_word(daemon):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(lambda: daemon.status().get("phase") == "docker", "the phase")
    daemon.process.kill()
    daemon.process.wait()
    done = daemon.ask("status")
    assert done.returncode == 3
    assert "last status: starting" in done.stdout


def test_a_garbled_status_file_is_unknown(daemon):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(lambda: daemon.status().get("phase") == "docker", "the phase")
    daemon.process.send_signal(signal.SIGSTOP)
    (daemon.root / "run/flower-agent/status.json").write_text("{")
    assert daemon.ask("status").returncode == 4
    daemon.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("words", [("status", "--bogus"), ("status", "--timeout", "soon")])
def test_a_wrong_command_line_is_usage(daemon, words):
    assert daemon.ask(*words).returncode == 64


def test_reset_asks_first_and_clears_nothing_before_the_containers_are_gone(daemon):
    state = daemon.root / "var/lib/flower-agent"
    for part in ("tls/ca", "superlink", "data"):
        (state / part).mkdir(parents=True)
        (state / part / "file").write_text("x")
    (state / "state.json").write_text("{}")
    refused = daemon.ask("reset")
    assert refused.returncode == 64
    assert (state / "state.json").exists()
    assert (
        "docker.down" in daemon.ask("reset", "--yes").stderr
    )  # first the containers, then the state
    assert (state / "state.json").exists()


def test_a_loop_that_breaks_ends_the_process_at_once_and_with_a_failure(daemon):
    (daemon.root / "run/flower-agent/.left.1.2.tmp").mkdir(parents=True)  # cannot be unlinked
    daemon.start()
    assert daemon.process.wait(20) == 1


def test_down_leaves_an_agents_containers_alone_whatever_the_root(daemon, tmp_path_factory):
    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(daemon.status, "a status")
    command = daemon.command("down")
    command[command.index("--root") + 1] = str(tmp_path_factory.mktemp("other"))
    done = subprocess.run(
        command, env=daemon.environment, check=False, cwd=ROOT, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "agent.running" in done.stderr


def test_a_lock_that_cannot_be_looked_at_is_unknown(daemon):
    lock = daemon.root / "run/flower-agent/lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(lock)
    assert daemon.ask("status").returncode == 4


def test_systemd_never_gives_up_starting_it():
    unit = (ROOT / "systemd/flower-agent.service").read_text().splitlines()
    assert {"Restart=always", "RestartSec=1", "StartLimitIntervalSec=0"} <= set(unit)


def test_the_record_outlives_a_killed_daemon_and_sees_what_changed_meanwhile(daemon):
    def told():
        done = daemon.ask("audit", "--json")
        assert done.returncode == 0, done.stderr
        rows = map(json.loads, done.stdout.splitlines())
        return [(row["who"], row["what"], row.get("message", "")) for row in rows]

    daemon.context("FLOWER_ROLE='server'\n")
    daemon.start()
    daemon.wait(lambda: len(told()) == 2, "two entries")
    first = told()
    assert [what for _, what, _ in first] == ["agent.version", "settings.changed"]
    daemon.process.kill()
    daemon.process.wait()
    with (daemon.root / "var/lib/flower-agent/audit.jsonl").open("ab") as file:
        file.write(b'{"schema":1,"seq"')  # as if it was killed in the middle of an entry
    daemon.context("FLOWER_ROLE='server'\nFL_NUM_ROUNDS='7'\n")
    daemon.start()
    daemon.wait(lambda: len(told()) == 4, "two more")
    assert [row[1:] for row in told()[2:]] == [
        ("record.recovered", "an entry of 17 bytes without its end is kept in audit.torn.txt"),
        ("settings.changed", "set: FL_NUM_ROUNDS"),
    ]
    assert daemon.ask("tls", "trust", "ab" * 32).returncode == 0
    daemon.wait(lambda: ("agent", "trust.ca_pinned", "the first one") in told(), "the pin")
    assert [what for _, what, _ in told()[4:]] == ["trust.requested", "trust.ca_pinned"]
    assert daemon.ask("audit", "--verify").returncode == 0
    daemon.process.terminate()
    daemon.process.wait()
    lines = (daemon.root / "log").read_text().splitlines()
    (head,) = [json.loads(line) for line in lines if '"record.head"' in line]
    assert daemon.ask("audit", "--verify", "--head", head["sha256"]).returncode == 0

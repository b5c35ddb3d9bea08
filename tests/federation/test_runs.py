"""From a git repository to a finished run with nothing but context variables, and what follows.

The whole story is lived once; each test looks at one side of it. A real git daemon serves the app.
"""

import json
import re
import shutil
import subprocess
import time
from types import SimpleNamespace

import pytest
from federation import APP
from run_listing import answers, commit
from watched import WatchedFederation, docker, wait_for

from flower_agent.config.flower_versions import Transport
from flower_agent.flower.control_client import Control
from flower_agent.model.address import Address

pytestmark = [pytest.mark.engine, pytest.mark.federation]

GIT_PORT = 21890
VARIABLES = {
    "CUSTOM_APP_REPO": f"git://127.0.0.1:{GIT_PORT}/apps@main#digits-app",
    "FL_NUM_ROUNDS": "2",
    "FL_CONFIG_FRACTION_EVALUATE": "0",
    "FL_CONFIG_LOCAL_EPOCHS": "1",
    "FL_CONFIG_COLOUR": "blue",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with the reference app in a directory, served by git's own daemon."""
    base = tmp_path_factory.mktemp("git")
    made = base / "apps"
    made.mkdir()
    subprocess.run(["git", "init", "-q", "-b", "main", made], check=True, timeout=60)
    shutil.copytree(APP, made / "digits-app", ignore=shutil.ignore_patterns("__pycache__"))
    commit(made, "the app")
    where = [f"--base-path={base}", "--listen=127.0.0.1", f"--port={GIT_PORT}", "--reuseaddr"]
    with subprocess.Popen(["git", "daemon", "--export-all", *where, base]) as daemon:
        wait_for(lambda: answers(GIT_PORT), "the git daemon")
        yield made
        daemon.terminate()


class Watch:
    """What a SuperLink's agent said of its run, in order and each once."""

    def __init__(self, federation):
        self.federation = federation
        self.said = []

    @property
    def status(self):
        return self.federation.status(self.federation.superlink)

    def look(self):
        facts = {fact["name"]: fact["detail"] for fact in self.status.get("facts", ())}
        words = facts.get("run", "").partition(";")[0].partition(":")[0]
        if words and words not in self.said[-1:]:
            self.said.append(words)
        return words

    def wait(self, words, timeout_s=120):
        wait_for(lambda: self.look().startswith(words), f"the run {words}", timeout_s)

    def warnings(self):
        return {found["code"]: found for found in self.status.get("warnings", ())}


@pytest.fixture(scope="module")
def story(tmp_path_factory, images, repository):
    made = WatchedFederation(
        tmp_path_factory.mktemp("runs"),
        name="fruns",
        base_port=21000,
        variables=VARIABLES,
        environment={"FLOWER_AGENT_TIME_SCALE": "0.1"},
        say=lambda _: None,
    )
    seen = SimpleNamespace(federation=made, first=commit(repository, "first"))
    watch = seen.watch = Watch(made)
    try:
        made.start_onegate()
        made.deploy(made.superlink)
        made.wait_ready(made.superlink)
        watch.wait("waiting 0 of 2 nodes")
        for machine in made.supernodes:
            made.deploy(machine)
        watch.wait("finished")
        seen.finished = made.agent(made.superlink, "status").stdout
        wait_for(lambda: told(made) == "finished", "the end at OneGate")
        seen.after_first = runs(made)

        seen.second = commit(repository, "the branch moves")
        made.stop_agent(made.superlink)
        (made.superlink.root / "run/flower-agent/status.json").unlink()
        made.start_agent(made.superlink)
        wait_for(lambda: "run.moved" in watch.warnings(), "the moved branch")
        time.sleep(3)  # thirty seconds of the agent: enough to submit, were it wrong
        seen.moved, seen.after_reboot = watch.warnings()["run.moved"], runs(made)
        seen.said_after_reboot = watch.look()

        changed = {**made.superlink.variables, "FL_STRATEGY": "FedNone"}
        made.write_context(made.superlink, changed)
        watch.wait("failed")
        wait_for(lambda: told(made).startswith("failed"), "the failure at OneGate")
        seen.failed, seen.told_failed = watch.warnings()["run.failed"], told(made)
        seen.after_change = runs(made)

        quick = ["-c", "num-server-rounds=1", "-c", "fraction-evaluate=0", "-c", "strategy=fedprox"]
        seen.submitted = made.agent(made.superlink, "submit", str(APP), *quick)
        long = ["-c", "num-server-rounds=1000", "-c", "strategy=fedavg"]
        seen.detached = made.agent(made.superlink, "submit", "--detach", *long)
        seen.stopped = made.agent(made.superlink, "stop", runs(made)[-1].run_id)
        seen.listed = made.agent(made.superlink, "runs", "--json")
        watch.wait("stopped")
        seen.said_at_the_end = watch.look()
        yield seen
    finally:
        made.down()


def told(federation):
    return federation.attributes(federation.superlink).get("FLOWER_RUN", "")


def runs(federation):
    ca = (federation.superlink.root / "var/lib/flower-agent/tls/ca.crt").read_bytes()
    control = Control(Address("127.0.0.1", federation.control_port), Transport.GRPC, ca)
    try:
        return control.list_runs(10)
    finally:
        control.close()


def kept(story, run, name):
    path = story.federation.superlink.root / f"var/lib/flower-agent/runs/{run.run_id}/{name}"
    return path.read_text()


def test_the_run_waits_for_nodes_then_runs_its_rounds_then_finishes(story):
    said = story.watch.said
    assert said[: said.index("finished")].count("waiting 0 of 2 nodes") == 1
    assert "running 2 of 2" in said
    (run,) = story.after_first
    assert (run.status, run.sub_status) == ("finished", "completed")


def test_the_settings_arrived_and_what_the_app_does_not_read_is_a_warning(story):
    end = json.loads(kept(story, story.after_first[0], "run.json"))
    assert end["config"] == {
        "fraction-evaluate": 0.0,
        "local-epochs": 1,
        "num-server-rounds": 2,
    }  # what is not set is not passed
    assert "run.unread: FL_CONFIG_COLOUR is set" in story.finished
    assert (end["end"], end["commit"]) == ("finished", story.first)


def test_log_and_metrics_of_each_round_are_kept(story):
    (run,) = story.after_first
    assert "round 2 of 2: accuracy" in kept(story, run, "log.txt")
    rows = [json.loads(line) for line in kept(story, run, "metrics.jsonl").splitlines()]
    assert [row["round"] for row in rows] == [1, 2]
    first, second = (row["server"]["accuracy"] for row in rows)
    assert 0 < first < second <= 1


def test_a_reboot_submits_nothing_again_and_a_moved_branch_is_shown_and_not_run(story):
    assert story.after_reboot == story.after_first
    assert story.said_after_reboot == "finished"
    assert story.second[:10] in story.moved["message"]
    assert story.first[:10] in story.moved["message"]


def test_a_changed_context_is_submitted_from_the_branch_as_it_is_now(story):
    first, second = story.after_change
    assert first == story.after_first[0]
    end = json.loads(kept(story, second, "run.json"))
    assert end["commit"] == story.second
    assert end["config"]["strategy"] == "FedNone"


def test_a_failed_app_is_told_with_its_cause(story):
    # Every VM of the service can read these two: no words of the app in them.
    assert story.told_failed == "failed: ValueError"
    assert story.failed["message"].endswith("failed: ValueError")
    assert story.failed["hint"] == f"flower-agent runs show {story.after_change[1].run_id}"
    end = json.loads(kept(story, story.after_change[1], "run.json"))
    assert "strategy is 'FedNone': want one of FedAvg" in end["cause"]
    assert "want one of FedAvg" in kept(story, story.after_change[1], "log.txt")
    assert story.watch.status["state"] == "ready"


def test_submit_follows_the_rounds_of_an_app_in_a_directory(story):
    done = story.submitted
    first, one, end, outputs, *names, more = done.stdout.splitlines()
    assert first.startswith("run ")
    assert "flower-agent/digits 1.0.0 from " in first
    assert one.startswith("round 1 of 1: accuracy 0.")
    assert end == "finished"
    run_id = first.split()[1].rstrip(":")
    assert re.fullmatch(rf"outputs    2 files, .* in /.*/runs/{run_id}/outputs", outputs)
    assert [name.split()[0] for name in names] == ["final_model.npz", "history.csv"]
    assert more == f"flower-agent runs show {run_id}"
    assert done.returncode == 0


def test_submit_without_an_app_submits_the_contexts_and_stop_ends_it(story):
    assert story.detached.returncode == 0
    assert f"apps@main#digits-app {story.second[:10]}" in story.detached.stdout
    assert "warning: run.unread: FL_CONFIG_COLOUR is set" in story.detached.stderr
    assert story.stopped.returncode == 0
    rows = json.loads(story.listed.stdout)["runs"]
    assert [row["status"] for row in rows] == ["finished", "failed", "finished", "stopped"]
    assert [row["by"] for row in rows] == ["context", "context", "root", "root"]


def test_what_is_told_of_is_the_newest_run_whoever_submitted_it(story):
    assert story.said_at_the_end == "stopped"


def test_no_container_of_the_bundler_is_left(story):
    assert docker("ps", "-aq", "--filter", "label=org.flower-agent.bundler=fruns-superlink") == ""

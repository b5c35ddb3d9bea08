"""What an operator sees of a whole federation: status, doctor, logs, the archive, metrics."""

import json
import pathlib
import re
import tarfile

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families
from watched import WatchedFederation, wait_for

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = [pytest.mark.engine, pytest.mark.federation]


@pytest.fixture(scope="module")
def federation(tmp_path_factory, images):
    made = WatchedFederation(
        tmp_path_factory.mktemp("operators"),
        name="opstest",
        base_port=30100,
        variables={"FLOWER_METRICS": "YES"},
        say=lambda _: None,
    )
    try:
        made.up()
        yield made
    finally:
        made.down()


def schema(name):
    return json.loads((ROOT / f"docs/{name}.schema.json").read_text())


def said(federation, machine, *words):
    done = federation.agent(machine, *words)
    assert done.returncode == 0, done
    return done.stdout


def test_the_status_of_every_vm_is_of_the_schema(federation):
    for machine in federation.machines:
        document = json.loads(said(federation, machine, "status", "--json"))
        jsonschema.validate(document, schema("status"), format_checker=jsonschema.FormatChecker())


def test_a_superlink_lists_its_supernodes_and_each_of_them_its_superlink(federation):
    wait_for(lambda: federation.status(federation.superlink)["nodes"] == 2, "two nodes", 60)
    listed = federation.status(federation.superlink)["supernodes"]
    ids = {str(m.vmid): federation.status(m)["node_id"] for m in federation.supernodes}
    assert {node["vmid"]: node["node_id"] for node in listed} == ids
    assert {node["state"] for node in listed} == {"online"}
    shown = said(federation, federation.superlink, "status")
    for vmid, node in ids.items():
        assert re.search(rf"^  {node} +{vmid}  online +now ", shown, re.MULTILINE)
    for machine in federation.supernodes:
        link = federation.status(machine)["superlink"]
        assert link["vmid"] == str(federation.superlink.vmid)
        assert link["endpoint"] == federation.status(federation.superlink)["endpoint"]
        assert link["version"] == "1.25.0"


def test_a_superlink_learns_what_its_supernodes_say_of_their_gpus(federation):
    def told():
        return [node["gpu"] for node in federation.status(federation.superlink)["supernodes"]]

    wait_for(lambda: all(gpu and "GPU" in gpu for gpu in told()), "their GPUs", 120)


def test_the_doctor_finds_nothing_wrong(federation):
    for machine in federation.machines:
        document = json.loads(said(federation, machine, "doctor", "--json"))
        jsonschema.validate(document, schema("doctor"))
        verdicts = {check["name"]: check["verdict"] for check in document["checks"]}
        assert verdicts["superlink"] == verdicts["onegate"] == verdicts["agent"] == "ok"


def test_the_logs_of_all_stand_by_time(federation):
    machine = federation.supernodes[0]
    lines = said(federation, machine, "logs", "-n", "1000").splitlines()
    stamps = [line[:24] for line in lines if line[:2] == "20"]
    assert stamps == sorted(stamps)
    told = "\n".join(line[25:] for line in lines)
    start = told.index("agent | container.start name=opstest-supernode-0-flower-supernode")
    connected = told.index("SuperNode ID")
    ready = told.index("agent | state.ready")
    assert start < connected < ready


def test_the_agents_polls_are_not_in_the_logs(federation):
    machine = federation.superlink
    every = said(federation, machine, "logs", "superlink", "-n", "10000", "--polls")
    assert "ControlServicer.ListNodes" in every
    assert "ControlServicer.List" not in said(federation, machine, "logs", "superlink")
    picked = said(federation, machine, "logs", "--grep", "starting FLOWER superlink")
    assert [line[25:].partition(" | ")[0] for line in picked.splitlines()] == [
        f"{machine.prefix}-flower-superlink"
    ]
    assert said(federation, machine, "logs", "superlink", "--since", "2099-01-01T00:00:00Z") == ""


def test_metrics_are_written_while_it_runs(federation):
    for machine in federation.machines:
        path = machine.root / "run/flower-agent/metrics/flower-agent.prom"
        found = {f.name: f.samples for f in text_string_to_metric_families(path.read_text())}
        ready = [s.value for s in found["flower_agent_state"] if s.labels["state"] == "ready"]
        assert ready == [1]
        assert 0 < found["flower_health_duration_seconds"][0].value < 3
        assert found["flower_certificate_left_days"][0].value > 300
        assert [s.value for s in found["flower_container_running"]] == [1, 1]


def test_the_archive_of_a_vm_that_works_holds_all_and_no_secret(federation, tmp_path):
    for machine in federation.machines:
        target = tmp_path / f"{machine.prefix}.tar.gz"
        said(federation, machine, "support", "-o", str(target))
        with tarfile.open(target) as opened:
            files = {m.name.partition("/")[2]: opened.extractfile(m).read() for m in opened}
        texts = {name: data.decode() for name, data in files.items()}
        assert texts["status.txt"].startswith("ready for ")
        assert "nothing to do" in texts["plan.txt"]
        assert f"docker/{machine.prefix}-flower-superexec.log" in texts
        env = (machine.root / "run/one-context/one_env").read_text()
        secrets = [re.search(r'TOKENTXT="(.+?)"', env)[1]]
        state = machine.root / "var/lib/flower-agent"
        for file in (*state.rglob("*.pem"), *state.rglob("*.key")):
            key = re.search(r"PRIVATE KEY-----\n(.*?)\n-----END", file.read_text(), re.DOTALL)
            secrets += key[1].splitlines()[:-1] if key else []
        assert len(secrets) > 2
        assert [name for name, text in texts.items() for s in secrets if s in text] == []

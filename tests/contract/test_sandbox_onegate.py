"""The sandbox's OneGate against what a real one of release 7.4 answered."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import onegate
import onegate_cloud
import pytest

DATA = Path(__file__).parent.parent / "data"
CASES = json.loads((DATA / "onegate-put-cases.json").read_text())["cases"]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEXT = {"Content-Type": "text/plain"}
JSON_TYPE = "application/json;charset=utf-8"

SUPERLINK, SUPERNODE, LONER, STRANGER = 28, 29, 40, 50


class Reply(NamedTuple):
    status: int
    text: str
    headers: dict

    @property
    def json(self):
        return json.loads(self.text)


class Guest:
    """A VM that talks to OneGate over one connection."""

    def __init__(self, url, vmid=None, token=None):
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
        self._headers = {}
        if vmid is not None:
            self._headers["X-ONEGATE-VMID"] = str(vmid)
        if token is not None:
            self._headers["X-ONEGATE-TOKEN"] = token

    def ask(self, method, path, body=None, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, {**self._headers, **named})
        answer = self._connection.getresponse()
        words = answer.read().decode()
        return Reply(answer.status, words, dict(answer.getheaders()))

    def get(self, path):
        return self.ask("GET", path)

    def put(self, data, path="/vm", kind="1"):
        body = urlencode({"data": data, "type": kind})
        return self.ask("PUT", path, body, **FORM)

    def close(self):
        self._connection.close()


def nic(low):
    return {
        "IP": f"172.20.0.{low}",
        "MAC": f"02:00:ac:14:00:{low:02x}",
        "NAME": "NIC0",
        "NETWORK": "private",
    }


@pytest.fixture
def gate():
    with onegate.OneGate() as started:
        started.add_service(1, "flower", [("superlink", 1), ("supernode", 1)])
        started.add_service(7, "other", [("superlink", 1)])
        started.add_vm(SUPERLINK, "superlink_0_(service_1)", "superlink", 1, nic=nic(43))
        started.add_vm(SUPERNODE, "supernode_0_(service_1)", "supernode", 1, nic=nic(44))
        started.add_vm(LONER, "loner")
        started.add_vm(STRANGER, "superlink_0_(service_7)", "superlink", 7)
        yield started


@pytest.fixture
def guest(gate):
    """Return a maker of guests."""
    guests = []

    def make(vmid=SUPERLINK, token=None):
        known = {machine.vmid: machine.token for machine in gate.machines()}
        guests.append(Guest(gate.url, vmid, token or known.get(vmid)))
        return guests[-1]

    yield make
    for each in guests:
        each.close()


def shape(document):
    """Return the names and types of a document, whatever it holds."""
    if isinstance(document, dict):
        return {name: shape(value) for name, value in document.items()}
    if isinstance(document, list):
        return [shape(value) for value in document]
    return type(document).__name__


# What becomes of values


@pytest.mark.parametrize("form", ["bare", "quoted"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_value_is_stored_or_refused_as_by_a_real_onegate(gate, guest, case, form):
    value = case["value"]
    quoted = '"' + value.replace('"', '\\"') + '"'
    reply = guest().put("FL_X=" + (value if form == "bare" else quoted))
    stored = gate.attributes(SUPERLINK).get("FL_X")
    assert {"status": reply.status, "stored": stored} == case[form]


def test_the_sample_has_the_cases_that_were_run():
    assert len(CASES) == 34


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("A=1\nB=two words", {"A": "1", "B": "two words"}),
        ("A=1\\nB=2", {"A": "1", "B": "2"}),
        ("A=\nB=2", {"A": "", "B": "2"}),
        ("A=1\nA=2\nA=3", {"A": ["1", "2", "3"]}),
        ("lower=x", {"LOWER": "x"}),
        ("1A=x", {"ONE_1A": "x"}),
        ("XMLA=x", {"ONE_XMLA": "x"}),
        ("V=[A=1]\n", {"V": {"A": "1"}}),
        ('V=["A"="1"]', {"V": {"A": "1"}}),
        ("", {}),
    ],
)
def test_bodies_of_several_attributes_are_taken_apart(gate, guest, sent, stored):
    assert guest(LONER).put(sent) == (200, "", {"Content-Type": JSON_TYPE, "Content-Length": "0"})
    assert gate.attributes(LONER) == stored


@pytest.mark.parametrize("sent", ["A-B=1", "A.B=1", "A", "A=1\nB", "A=[B]", 'K=[A="\x01"]', "<A/>"])
def test_what_is_no_template_is_an_internal_error_and_stores_nothing(gate, guest, sent):
    assert guest(LONER).put(sent)[:2] == (500, "Internal server error")
    assert gate.attributes(LONER) == {}
    assert gate.updates(LONER) == ()


def test_an_update_replaces_every_attribute_of_the_same_name_and_no_other(gate, guest):
    guest(LONER).put("A=1\nA=2\nB=1")
    guest(LONER).put("A=3")
    assert gate.attributes(LONER) == {"A": "3", "B": "1"}


@pytest.mark.parametrize("headers", [TEXT, FORM, {}], ids=["text", "form", "untyped"])
def test_a_raw_body_is_read_as_it_is(gate, guest, headers):
    assert guest().ask("PUT", "/vm", b"A=50%25+x", **headers).status == 200
    assert gate.attributes(SUPERLINK)["A"] == "50%25+x"


def test_a_raw_body_with_a_bad_percent_is_refused_as_a_form_only(gate, guest):
    assert guest().ask("PUT", "/vm", b"A=50%", **FORM).status == 400
    assert guest().ask("PUT", "/vm", b"A=50%", **TEXT).status == 200
    assert gate.attributes(SUPERLINK)["A"] == "50%"


def test_a_megabyte_is_stored_and_a_form_over_four_is_not(gate, guest):
    assert guest().put("BIG=" + "x" * 1_000_000).status == 200
    assert len(gate.attributes(SUPERLINK)["BIG"]) == 1_000_000
    reply = guest().ask("PUT", "/vm", b"data=BIG%3D" + b"x" * 4_200_000, **FORM)
    assert reply[:2] == (500, "total query size exceeds limit (4194304)")
    assert reply.headers["Content-Type"] == "text/html;charset=utf-8"


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"data=A%3D%FF&type=1", FORM), (b"data=A%3D\xff", FORM), (b"A=\xff", TEXT)],
)
def test_what_is_no_utf8_is_an_error_with_ruby_s_words(gate, guest, body, headers):
    reply = guest(LONER).ask("PUT", "/vm", body, **headers)
    assert reply[:2] == (500, "invalid byte sequence in UTF-8")
    assert gate.attributes(LONER) == {}


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("A=1\nB=2", 'Invalid expression: USER_TEMPLATE/A="1"\nB="2"'),
        ("A=1", "undefined method `remove' for false:FalseClass"),
    ],
)
def test_a_type_that_is_no_number_makes_an_xpath_of_the_update(gate, guest, sent, words):
    assert guest(LONER).put(sent, kind="abc")[:2] == (500, words)
    assert gate.attributes(LONER) == {}


def test_no_answer_bears_a_date(guest):
    assert "Date" not in guest().get("/vm").headers


@pytest.mark.parametrize("number", ["28x", " 28", "28 29"])
def test_a_vm_is_named_by_the_digits_in_front(gate, guest, number):
    token = next(m.token for m in gate.machines() if m.vmid == SUPERLINK)
    assert guest(number, token).get("/vm").json["VM"]["ID"] == "28"


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (("GET", "/vrouter", None), 400, "Empty or invalid VROUTER_ID"),
        (
            ("GET", "/vnet/0", None),
            400,
            "Virtual networks information can only be retrieved from Virtual Routers.",
        ),
        (("GET", "/vnet/x", None), 400, "Invalid id format (ID: x). ID must be an integer."),
        (
            ("PUT", "/service/role/x", '{"cardinality": 2}'),
            400,
            "Error performing action on service 1 role x",
        ),
        (("PUT", "/service/role/supernode", '{"cardinality": 3}'), 200, ""),
        (
            ("POST", "/vms/28/action", '{"action": {"perform": "fly"}}'),
            500,
            "Internal server error",
        ),
        (
            ("POST", "/vms/28/action", '{"action": {"perform": "reboot"}}'),
            403,
            "Action (reboot) is not allowed on this resource",
        ),
        (("POST", "/vms/28/action", "{}"), 400, "Error parsing JSON: Wrong resource type"),
        (("POST", "/vms/28/action", '{"action": {"perform": "resched"}}'), 204, ""),
    ],
)
def test_routes_that_no_agent_asks_for_have_texts_of_their_own(gate, guest, call, status, words):
    assert guest().ask(*call)[:2] == (status, words)
    nobody = Guest(gate.url)
    assert nobody.ask(*call)[:2] == (401, "Not authorized")
    nobody.close()


# Who may do what

LONELY = (
    "This VM does not belong to any Virtual Router or Service, so it cannot"
    " retrieve information from other VMs"
)


@pytest.mark.parametrize("path", ["/", "/vm", "/vms/28", "/service"])
@pytest.mark.parametrize(
    ("vmid", "token"),
    [(28, None), (None, "x"), (28, "x"), (99, "x"), ("twenty", "x"), (28, "é")],
)
def test_a_callwithout_the_right_token_is_not_authorized(gate, path, vmid, token):
    reply = Guest(gate.url, vmid, token)
    assert reply.get(path)[:2] == (401, "Not authorized")
    reply.close()


def test_the_token_of_another_vm_is_not_authorized(gate, guest):
    tokens = {machine.vmid: machine.token for machine in gate.machines()}
    assert len(set(tokens.values())) == len(tokens)
    assert {len(token) for token in tokens.values()} == {24}
    assert guest(SUPERLINK, tokens[SUPERNODE]).put("A=1").status == 401
    assert "A" not in gate.attributes(SUPERLINK)


@pytest.mark.parametrize(
    ("vmid", "path", "status", "words"),
    [
        (SUPERLINK, f"/vms/{STRANGER}", 400, "Service 1 does not contain VM 50."),
        (SUPERLINK, "/vms/99", 400, "Service 1 does not contain VM 99."),
        (SUPERLINK, "/vms/x", 400, "Service 1 does not contain VM 0."),
        (LONER, "/service", 400, "Empty or invalid SERVICE_ID"),
        (
            LONER,
            f"/vms/{SUPERLINK}",
            400,
            LONELY,
        ),
        (SUPERLINK, "/vnets", 400, "OneGate server doesn't support this feature"),
        (SUPERLINK, "/vm/", 400, "OneGate server doesn't support this feature"),
    ],
)
def test_a_refusal_is_a_plain_text_that_calls_itself_json(guest, vmid, path, status, words):
    reply = guest(vmid).get(path)
    assert reply[:2] == (status, words)
    assert reply.headers["Content-Type"] == JSON_TYPE


def test_what_onegate_does_not_know_needs_no_token(gate):
    nobody = Guest(gate.url)
    assert nobody.ask("POST", "/vm", b"x").status == 400
    assert nobody.ask("DELETE", "/service").status == 400
    nobody.close()


def test_a_service_id_without_a_service_is_not_found(guest):
    guest(LONER).put(" SERVICE_ID=8")  # the space slips past the guard
    assert guest(LONER).get("/service")[:2] == (404, "Service 8 not found")
    guest(LONER).put(" SERVICE_ID=1")
    assert guest(LONER).get("/service")[:2] == (400, "Service 1 does not contain VM 40.")


@pytest.mark.parametrize("name", ["SERVICE_ID", "ROLE_NAME", "SCHED_REQUIREMENTS", "Service_Id"])
def test_restricted_attributes_are_neither_modified_nor_deleted(gate, guest, name):
    before = gate.attributes(SUPERLINK)
    sent = guest().put(f"A=1\n{name}=7")
    assert sent[:2] == (403, f"Attribute ({name}) cannot be modified")
    assert guest().put(name, kind="2")[:2] == (403, f"Attribute ({name}) cannot be deleted")
    assert gate.attributes(SUPERLINK) == before


def test_a_vm_may_update_another_of_its_service_only(gate, guest):
    assert guest(SUPERNODE).put("A=1", path=f"/vms/{SUPERLINK}").status == 200
    assert gate.attributes(SUPERLINK)["A"] == "1"
    assert guest(SUPERNODE).put("A=1", path=f"/vms/{STRANGER}").status == 400


# Erasing


def test_erasing_removes_one_attribute_and_keeps_the_others(gate, guest):
    guest(LONER).put('A=1\nA=2\nB=x\nC=a\\b\nV=["K"="1"]\nE=\nZ=1')
    before = gate.attributes(LONER)
    assert guest(LONER).put("A", kind="2").status == 200
    del before["A"]
    assert gate.attributes(LONER) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MISSING", "Internal server error"),
        ("fl_x", "Internal server error"),
        ("FL_X\n", 'Invalid expression: USER_TEMPLATE/FL_X"\n'),
        ("", "Invalid expression: USER_TEMPLATE/"),
    ],
)
def test_erasing_what_is_not_there_is_an_error(gate, guest, name, words):
    guest(LONER).put("FL_X=1")
    assert guest(LONER).put(name, kind="2")[:2] == (500, words)
    assert gate.attributes(LONER) == {"FL_X": "1"}


def test_erasing_a_star_wipes_the_restricted_attributes_too(gate, guest):
    assert guest().put("*", kind="2").status == 200
    assert gate.attributes(SUPERLINK) == {}


# Documents


@pytest.fixture
def sampled(guest):
    """Bring the service to where it was when the samples were taken."""
    guest(SUPERLINK).put(
        "FLOWER_READY=YES\nFLOWER_STATE=starting\nFL_CA_B64=TUlJQ2FzZXJ0PT0=\n"
        'ONEAPP_FL_TLS=YES\nONEAPP_NOTE=""'
    )
    guest(SUPERNODE).put('FL_TOP=172.20.0.43\nONEAPP_FL_TLS=YES\nONEAPP_NOTE=""')
    return guest(SUPERLINK)


def sample(name):
    return json.loads((DATA / f"onegate-{name}.json").read_text())


@pytest.mark.parametrize(
    ("path", "name"),
    [("/vms/29", "get-vm"), ("/vm", "get-vms-id"), ("/vms/28", "get-vms-id")],
)
def test_a_vm_document_is_the_real_one(sampled, path, name):
    assert sampled.get(path).json == sample(name)


def test_a_service_document_is_the_real_one(sampled):
    assert sampled.get("/service").json == sample("get-service")


@pytest.mark.parametrize("query", ["extended", "extended=true", "extended=false"])
def test_an_extended_service_has_the_shape_of_the_real_one(sampled, query):
    if query == "extended":
        query += "="
    real = sample("get-service-extended")
    ours = sampled.get(f"/service?{query}").json
    for document in (real, ours):
        for role in document["SERVICE"]["roles"]:
            vm = role["nodes"][0]["vm_info"]["VM"]
            vm["TEMPLATE"].pop("OS", None)  # has it or not by the VM's history
            assert "DISK_ID" in vm["TEMPLATE"].pop("CONTEXT")
    assert shape(ours) == shape(real)


def test_only_an_extended_service_shows_the_context(gate, guest):
    gate.add_vm(30, "supernode_1_(service_1)", "supernode", 1, context={"TLS_KEY": "secret"})
    assert "secret" in guest().get("/service?extended=false").text
    assert "secret" not in guest().get("/service").text
    assert "secret" not in guest(30).get("/vm").text


def test_a_vm_without_nics_has_an_empty_list_and_with_two_both(gate, guest):
    gate.add_vm(60, "none", nic=())
    gate.add_vm(61, "two", nic=[nic(1), nic(2)])
    assert guest(60).get("/vm").json["VM"]["TEMPLATE"] == {"NIC": [], "NIC_ALIAS": []}
    assert len(guest(61).get("/vm").json["VM"]["TEMPLATE"]["NIC"]) == 2


def test_the_root_names_the_host_that_was_asked(gate, guest):
    assert guest().get("/").json == {
        "vm_info": f"{gate.url}/vm",
        "service_info": f"{gate.url}/service",
    }


def test_oned_messages_are_not_shown(guest):
    guest(LONER).put("SCHED_MESSAGE=full\nA=1")
    assert guest(LONER).get("/vm").json["VM"]["USER_TEMPLATE"] == {"A": "1"}


def test_head_answers_without_a_body(guest):
    reply = guest().ask("HEAD", "/vm")
    assert (reply.status, reply.text) == (200, "")
    assert int(reply.headers["Content-Length"]) > 0


# OneFlow's READY gate


@pytest.mark.parametrize(
    "sent",
    [
        "READY=YES",
        'READY="YES"',
        "READY= YES ",
        "FLOWER_READY=YES",
        "A=1\nFL_READY=YES",
        "READY=YESTERDAY",
        "NOTE=set READY=YES when done",
        "ready=YES",
    ],
)
def test_the_gate_opens(gate, guest, sent):
    assert guest().put(sent).status == 200
    assert gate.gate_open(SUPERLINK)
    assert not gate.gate_open(SUPERNODE)


@pytest.mark.parametrize("sent", ["READY=NO", "READY=yes", "FLOWER_STATE=ready", "READY=TRUE"])
def test_the_gate_stays_shut(gate, guest, sent):
    assert guest().put(sent).status == 200
    assert not gate.gate_open(SUPERLINK)


def test_the_gate_stays_shut_when_oned_refuses_the_update(gate, guest):
    assert guest().put("READY=YES\nA=1,2").status == 500
    assert not gate.gate_open(SUPERLINK)


def test_the_gate_stays_open(gate, guest):
    guest().put("READY=YES")
    guest().put("READY=NO")
    assert gate.gate_open(SUPERLINK)
    assert gate.attributes(SUPERLINK)["READY"] == "NO"


def test_a_service_runs_when_all_its_roles_are_ready(guest):
    def states():
        service = guest().get("/service").json["SERVICE"]
        return service["state"], [role["state"] for role in service["roles"]]

    assert states() == (1, [1, 1])
    guest(SUPERLINK).put("READY=YES")
    assert states() == (1, [2, 1])
    guest(SUPERNODE).put("READY=YES")
    assert states() == (2, [2, 2])


# What a test can read


def test_requests_and_updates_are_kept_in_order(gate, guest):
    guest().get("/service?extended=1")
    guest().put("A=1")
    guest().put("A=1,2")
    guest().put("A", kind="2")
    assert gate.requests == (
        ("GET", "/service?extended=1", SUPERLINK, 200),
        ("PUT", "/vm", SUPERLINK, 200),
        ("PUT", "/vm", SUPERLINK, 500),
        ("PUT", "/vm", SUPERLINK, 200),
    )
    assert [update[1:] for update in gate.updates(SUPERLINK)] == [("A=1", 1), ("A", 2)]
    assert gate.updates(SUPERLINK)[0].at <= gate.updates(SUPERLINK)[1].at
    assert gate.updates(SUPERNODE) == ()


def test_memory_is_bounded():
    gate = onegate.OneGate()
    gate.add_vm(1, "vm")
    (machine,) = gate.machines()
    for number in range(onegate_cloud.HISTORY + 5):
        gate.update(machine, f"A={number}", 1)
    assert len(gate.updates(1)) == onegate_cloud.HISTORY
    assert gate.updates(1)[0].body == "A=5"


@pytest.mark.parametrize("role", ["superexec", None])
def test_a_vm_of_a_role_that_the_service_lacks_is_refused(gate, role):
    with pytest.raises(ValueError, match="does not exist"):
        gate.add_vm(70, "vm", role, 1)


def test_only_loopback_is_served():
    with pytest.raises(ValueError, match="not a loopback address"):
        onegate.OneGate().start("0.0.0.0")  # noqa: S104 - that this is refused is the point


# Faults


def test_down_closes_the_connection_until_healed(gate, guest):
    gate.fault("down")
    with pytest.raises(http.client.RemoteDisconnected):
        guest().put("A=1")
    gate.heal()
    assert guest().get("/vm").status == 200
    assert "A" not in gate.attributes(SUPERLINK)
    assert [request.status for request in gate.requests] == [0, 200]


def test_a_stopped_onegate_refuses_and_goes_on_where_it_was(gate, guest):
    guest().put("A=1")
    port = urlsplit(gate.url).port
    gate.stop()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
    gate.start(port=port)
    assert guest().get("/vm").json["VM"]["USER_TEMPLATE"]["A"] == "1"


def test_slow_answers_late(gate, guest):
    gate.fault("slow", seconds=0.1)
    begun = time.monotonic()
    assert guest().get("/vm").status == 200
    assert time.monotonic() - begun >= 0.1


@pytest.mark.parametrize("end", ["heal", "stop"])
def test_a_hang_lasts_until_it_is_ended(gate, guest, end):
    gate.fault("hang")
    ended = threading.Event()

    def hang():
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            guest().put("A=1")
        ended.set()

    thread = threading.Thread(target=hang)
    thread.start()
    assert not ended.wait(0.1)
    getattr(gate, end)()
    assert ended.wait(2)
    thread.join()
    assert "A" not in gate.attributes(SUPERLINK)


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [("401", 401, "Not authorized"), ("500", 500, "Internal server error")],
)
def test_an_error_on_callstores_nothing(gate, guest, kind, status, words):
    gate.fault(kind)
    assert guest().put("A=1")[:2] == (status, words)
    assert gate.updates(SUPERLINK) == ()


def test_garbage_is_200_and_no_answer_of_onegate(gate, guest):
    gate.fault("garbage")
    reply = guest().get("/vm")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/html")
    gate.fault("garbage", body="truncated")
    reply = guest().get("/vm")
    assert reply.status == 200
    with pytest.raises(ValueError, match="Expecting value"):
        reply.json  # noqa: B018 - reading it is what fails


def test_a_redirect_points_elsewhere(gate, guest):
    gate.fault("redirect", to="http://127.0.0.2:1/vm")
    reply = guest().get("/vm")
    assert (reply.status, reply.headers["Location"]) == (302, "http://127.0.0.2:1/vm")


def test_a_dropped_reply_has_taken_effect(gate, guest):
    gate.fault("drop_reply", count=1)
    caller = guest()
    with pytest.raises(http.client.RemoteDisconnected):
        caller.put("A=1")
    assert gate.attributes(SUPERLINK)["A"] == "1"
    assert caller.get("/vm").status == 200


def test_a_fault_strikes_whom_it_names_and_as_often_as_it_says(gate, guest):
    gate.fault("500", vmid=SUPERNODE, count=2, method="PUT")
    assert guest(SUPERLINK).put("A=1").status == 200
    assert guest(SUPERNODE).get("/vm").status == 200
    assert [guest(SUPERNODE).put("A=1").status for _ in range(3)] == [500, 500, 200]


def test_the_newest_fault_wins(gate, guest):
    gate.fault("401")
    gate.fault("500", count=1)
    assert [guest().get("/vm").status for _ in range(2)] == [500, 401]


@pytest.mark.parametrize(
    ("kind", "options"), [("flood", {}), ("redirect", {}), ("garbage", {"body": "poem"})]
)
def test_a_fault_that_does_not_exist_is_refused(gate, kind, options):
    with pytest.raises(ValueError):  # noqa: PT011 - the words differ
        gate.fault(kind, **options)


# The sandbox's process


@pytest.fixture
def process(tmp_path):
    """Return a starter of OneGate processes on one state file."""
    state = tmp_path / "cloud.json"
    machine = {"id": 28, "name": "superlink_0_(service_1)", "role": "superlink", "service_id": 1}
    service = {"id": 1, "name": "flower", "roles": [["superlink", 1], ["supernode", 2]]}
    state.write_text(json.dumps({"services": [service], "vms": [{**machine, "token": "known"}]}))
    running = []

    def start():
        command = [sys.executable, onegate.__file__, "--state", str(state), "--port", "0"]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(started)
        return started, started.stdout.readline().split()[-1]

    yield start
    for each in running:
        each.kill()
        each.communicate()


def end(started):
    started.send_signal(signal.SIGTERM)
    return started.wait(5)


def test_the_process_keeps_what_vms_published_and_which_vms_were_added(process, tmp_path):
    started, url = process()
    orchestrator = Guest(url)
    added = {"id": 29, "name": "supernode_0", "role": "supernode", "service_id": 1}
    reply = orchestrator.ask("POST", "/sandbox/vms", json.dumps(added))
    assert reply.status == 201
    superlink, supernode = Guest(url, 28, "known"), Guest(url, 29, reply.json["token"])
    assert superlink.put("READY=YES\nNAME=caf\u00e9").status == 200
    assert superlink.put("READY=NO").status == 200
    assert supernode.put("A=1").status == 200
    seen = orchestrator.get("/sandbox/vms").json
    assert end(started) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cloud.json",
        "cloud.user_templates.json",
    ]

    _, url = process()
    again = Guest(url, 29, reply.json["token"])
    assert again.get("/vms/28").json["VM"]["USER_TEMPLATE"]["NAME"] == "café"
    assert again.get("/sandbox/vms").json == seen
    assert seen["28"]["gate_open"]
    for each in (orchestrator, superlink, supernode, again):
        each.close()


def test_faults_of_the_process_are_switched_over_http(gate, guest):
    reply = guest().ask("PUT", "/sandbox/fault", json.dumps({"kind": "500", "vmid": 28}))
    assert reply.status == 200
    assert guest().get("/vm").status == 500
    assert guest(SUPERNODE).get("/vm").status == 200
    assert guest().ask("DELETE", "/sandbox/fault").status == 200
    assert guest().get("/vm").status == 200
    assert len(gate.requests) == 3


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/sandbox/fault", "{}", 400),
        ("PUT", "/sandbox/fault", '{"kind": "flood"}', 400),
        ("PUT", "/sandbox/fault", "[]", 400),
        ("PUT", "/sandbox/fault", "{", 400),
        ("POST", "/sandbox/vms", '{"id": 28, "name": "twice"}', 400),
        ("POST", "/sandbox/vms", '{"id": 80}', 400),
        ("POST", "/sandbox/vms", '{"id": 80, "name": "x", "colour": "red"}', 400),
        ("GET", "/sandbox/moon", None, 404),
    ],
)
def test_the_sandbox_refuses_what_it_does_not_know(guest, method, path, body, status):
    assert guest().ask(method, path, body).status == status

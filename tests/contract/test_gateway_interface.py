"""The agent's socket for the gateway, with real sockets: whom it answers, what, and how long."""

import array
import contextlib
import json
import os
import pathlib
import pwd
import socket
import stat
import threading
import time

import pytest

from flower_agent.agent import gateway_interface, gateway_requests
from flower_agent.agent.gateway_interface import GatewayInterface
from flower_agent.model.errors import AgentError, StateFileError

QUICK_S = 0.6
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the socket is root's")


@pytest.fixture
def place(tmp_path):
    """A place that another user may reach: pytest's own directories are private."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder != folder.parent and stat.S_IMODE(folder.stat().st_mode) & 0o011 != 0o011:
            folder.chmod(0o755)
    return tmp_path / "gateway" / "agent.sock"


@pytest.fixture
def events():
    return []


@pytest.fixture
def interface(place, tmp_path, events):
    made = GatewayInterface(place, tmp_path / "runs", events.append, timeout_s=QUICK_S)
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "runs" / "7" / "outputs"
    folder.mkdir(parents=True)
    return folder


def dial(place):
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(10)
    link.connect(str(place))
    return link


def receive(link):
    """Return what came and the descriptors that came along."""
    space = socket.CMSG_LEN(255 * 4)
    data, descriptors = b"", array.array("i")
    while True:
        part, ancillary, _, _ = link.recvmsg(1 << 16, space)
        for _, kind, content in ancillary:
            assert kind == socket.SCM_RIGHTS
            descriptors.frombytes(content)
        if not part:
            return data, list(descriptors)
        data += part


def ask(place, line):
    with dial(place) as link:
        link.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        data, descriptors = receive(link)
        return json.loads(data), descriptors


def test_the_socket_is_the_gateways_groups_and_nobody_elses(interface, place):
    assert stat.S_IMODE(place.stat().st_mode) == 0o660
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o750
    assert place.stat().st_uid == 0


def test_outputs_come_as_descriptors_that_only_read(interface, place, outputs):
    (outputs / "model.npz").write_bytes(b"12345")
    (outputs / "sub").mkdir()
    (outputs / "sub" / "b.txt").write_text("b")
    answer, descriptors = ask(place, {"ask": "outputs", "run": "7"})
    names = [(row["name"], row["size"]) for row in answer["files"]]
    assert names == [("model.npz", 5), ("sub/b.txt", 1)]
    assert [os.read(each, 9) for each in descriptors] == [b"12345", b"b"]
    with pytest.raises(OSError, match="Bad file"):
        os.write(descriptors[0], b"x")
    for each in descriptors:
        os.close(each)


def test_links_and_other_runs_stay_where_they_are(interface, place, outputs, tmp_path):
    (tmp_path / "runs" / "secret").write_text("SECRET")
    (outputs / "link").symlink_to("../../secret")
    (outputs / "folder").symlink_to("/etc")
    assert ask(place, {"ask": "outputs", "run": "7"}) == ({"files": [], "left_out": 2}, [])
    assert ask(place, {"ask": "outputs", "run": "8"}) == ({"files": []}, [])
    for run in ("..", "7/..", "../7", "/etc", "7\0"):
        assert ask(place, {"ask": "outputs", "run": run}) == ({"error": "want the id of a run"}, [])


def test_two_hundred_files_come_in_one_answer(interface, place, outputs):
    for number in range(205):
        (outputs / f"{number:03}-{'n' * 200}").write_text(str(number))
    answer, descriptors = ask(place, {"ask": "outputs", "run": "7"})
    assert len(answer["files"]) == len(descriptors) == 200
    assert answer["left_out"] == 5
    assert os.read(descriptors[199], 9) == b"199"
    for each in descriptors:
        os.close(each)


def test_no_descriptor_stays_open_here(interface, place, outputs):
    (outputs / "f").write_text("x")
    before = len([*pathlib.Path("/proc/self/fd").iterdir()])
    for _ in range(20):
        for each in ask(place, {"ask": "outputs", "run": "7"})[1]:
            os.close(each)
    time.sleep(0.1)
    assert len([*pathlib.Path("/proc/self/fd").iterdir()]) == before


def test_events_reach_the_record_as_they_are(interface, place, events):
    told = {"event": "gateway.login", "account": "ada", "ok": True}
    assert ask(place, {"ask": "record", "events": [told, told]}) == ({"ok": True}, [])
    assert [(e.name, e.fields) for e in events] == [
        ("gateway.login", {"account": "ada", "ok": True})
    ] * 2


def test_one_bad_event_takes_none_of_the_others_along(interface, place, events):
    good, bad = {"event": "gateway.login"}, {"event": "agent.stop"}
    answer, _ = ask(place, {"ask": "record", "events": [good, bad]})
    assert answer["error"].startswith("want ")
    assert events == []


def test_a_flood_of_events_is_refused(interface, place, events):
    batch = {"ask": "record", "events": [{"event": "gateway.login"}] * 100}
    answers = [ask(place, batch)[0] for _ in range(8)]
    assert [answer == {"ok": True} for answer in answers].count(True) == 6
    assert "too many events" in answers[-1]["error"]
    assert len(events) == 600


def test_a_record_that_cannot_be_written_is_told(place, tmp_path):
    def full(_):
        raise StateFileError("state.unwritable", "no room", retryable=True)

    made = GatewayInterface(place, tmp_path, full, timeout_s=QUICK_S)
    made.serve()
    event = {"ask": "record", "events": [{"event": "gateway.login"}]}
    assert ask(place, event)[0] == {"error": "state.unwritable"}
    assert "files" in ask(place, {"ask": "outputs", "run": "1"})[0]
    made.stop()


@pytest.mark.parametrize(
    "line", [b"\n", b"x\n", b'{"ask": "shell"}\n', b"[" * 60000 + b"\n", b"\xff\n", b"null\n"]
)
def test_an_unknown_ask_is_answered_with_an_error(interface, place, line):
    answer, _ = ask(place, line)
    assert list(answer) == ["error"]


def test_a_huge_question_is_refused_before_its_end(interface, place):
    with dial(place) as link:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                link.sendall(b"x" * 65536)
        with contextlib.suppress(ConnectionResetError):
            data, _ = receive(link)
            assert b"want at most" in data
    assert "files" in ask(place, {"ask": "outputs", "run": "1"})[0]


def test_slow_clients_are_hung_up_on_and_delay_nobody(interface, place):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(dial(place)) for _ in range(8)]
        for link in slow:
            link.sendall(b'{"ask"')
        began = time.monotonic()
        assert "files" in ask(place, {"ask": "outputs", "run": "1"})[0]
        assert time.monotonic() - began < QUICK_S / 2
        assert [receive(link)[0] for link in slow] == [b""] * 8
        assert time.monotonic() - began < QUICK_S + 2


def test_a_client_that_drips_has_no_longer_than_one_that_is_silent(interface, place):
    began = time.monotonic()
    with dial(place) as link, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() - began < 10:
            link.sendall(b" ")
            time.sleep(0.05)
    assert time.monotonic() - began < QUICK_S + 2


def test_a_client_that_does_not_take_its_answer_is_hung_up_on(interface, place, outputs):
    for number in range(200):
        (outputs / f"{number:03}-{'é' * 120}").write_text("")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            link = stack.enter_context(dial(place))
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            link.sendall(b'{"ask": "outputs", "run": "7"}\n')
        time.sleep(0.2)
        answer, descriptors = ask(place, {"ask": "outputs", "run": "7"})
        assert len(answer["files"]) == len(descriptors)
        for each in descriptors:
            os.close(each)


def test_more_clients_than_places_wait_their_turn(interface, place):
    with contextlib.ExitStack() as stack:
        for _ in range(gateway_interface.CONNECTIONS):
            stack.enter_context(dial(place))
        began = time.monotonic()
        assert "files" in ask(place, {"ask": "outputs", "run": "1"})[0]
        assert time.monotonic() - began < QUICK_S + 2


def test_clients_that_go_away_at_once_do_no_harm(interface, place, outputs):
    (outputs / "f").write_text("x")
    for _ in range(50):
        link = dial(place)
        link.sendall(b'{"ask": "outputs", "run": "7"}\n')
        link.close()
    for _ in range(10):
        for each in ask(place, {"ask": "outputs", "run": "7"})[1]:
            os.close(each)


def as_user(uid, work):
    """Do something in a child process of another user; return its exit status."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


NOBODY = pwd.getpwnam("nobody").pw_uid


def answered(place):
    def work():
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(place))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                link.sendall(b'{"ask": "outputs", "run": "1"}\n')
                return 0 if link.recv(1) else 1
            return 1

    return work


def test_a_user_who_is_not_the_gateway_gets_no_answer_even_with_the_socket_open(interface, place):
    place.parent.chmod(0o755)
    place.chmod(0o666)
    assert as_user(NOBODY, answered(place)) == 1
    assert "files" in ask(place, {"ask": "outputs", "run": "1"})[0]


def test_the_gateways_user_gets_an_answer(place, tmp_path, monkeypatch):
    monkeypatch.setattr(gateway_interface, "USER", "nobody")
    made = GatewayInterface(place, tmp_path, timeout_s=QUICK_S)
    made.serve()
    place.parent.chmod(0o755)
    place.chmod(0o666)
    assert as_user(NOBODY, answered(place)) == 0
    made.stop()


def test_it_begins_once_ends_and_begins_again(interface, place):
    before = {thread.ident for thread in threading.enumerate()}
    number = place.stat().st_ino
    interface.serve()
    assert place.stat().st_ino == number
    assert {thread.ident for thread in threading.enumerate()} == before
    interface.stop()
    assert not place.exists()
    assert "gateway-interface" not in {thread.name for thread in threading.enumerate()}
    interface.stop()
    interface.serve()
    assert "files" in ask(place, {"ask": "outputs", "run": "1"})[0]


def test_a_socket_that_a_killed_agent_left_is_taken_over_or_goes(place, tmp_path):
    for wanted in (True, False):
        place.parent.mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(place))
        made = GatewayInterface(place, tmp_path, timeout_s=QUICK_S)
        if wanted:
            made.serve()
            assert "files" in ask(place, {"ask": "outputs", "run": "1"})[0]
        made.stop()
        assert not place.exists()


def test_a_socket_that_somebody_removed_comes_back(interface, place):
    place.unlink()
    interface.serve()
    assert "files" in ask(place, {"ask": "outputs", "run": "1"})[0]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    made = GatewayInterface(tmp_path / "file" / "agent.sock", tmp_path)
    with pytest.raises(AgentError, match=r"state\.unwritable"):
        made.serve()
    made.stop()


def test_the_limits_are_those_of_the_contract():
    assert gateway_interface.TIMEOUT_S == 5.0
    assert gateway_requests.LIMIT_BYTES == 65536

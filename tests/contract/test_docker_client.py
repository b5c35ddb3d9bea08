"""The Docker Engine as the agent uses it: the same tests on the fake and on a real one."""

import contextlib
import datetime
import gc
import http.server
import inspect
import json
import pathlib
import socketserver
import tempfile
import threading
import time

import docker
import pytest
from fake_engine import FakeEngine
from real_engine import Relay, client, load_image, shell_files, unique, until

from flower_agent.commands import logs
from flower_agent.docker.client import PIDS_LIMIT, Engine
from flower_agent.docker.containers import (
    CPU_PERIOD_US,
    CPU_QUOTA_STARTING_US,
    CPU_SHARES,
    CPU_SHARES_STARTING,
    LABEL_FINGERPRINT,
    LABEL_NAME,
    LABEL_ROLE,
    Component,
    Container,
    Mount,
)
from flower_agent.host.gpu import Answer, GpuAccess, Offers
from flower_agent.model.errors import AgentError

MEMORY_BYTES = 64 << 20
ORDERS = "/tmp/orders"
OBEY = f"while :; do [ -s {ORDERS} ] && . {ORDERS} && : >{ORDERS}; sleep 0.02; done"
"""What the containers run: it does what a test writes into a file."""

EAT = "x=x; while :; do x=$x$x; done"


class FakeRig:
    """The fake with what a test does to it."""

    image = "flower-agent-test/shell:1"

    def __init__(self):
        self.owner = unique("test")
        self.engine = FakeEngine(self.owner)
        self.engine.hold(self.image)
        self.say = self.engine.say
        self.program = self.engine.programs.__setitem__
        self.end = self.engine.end
        self.foreign = self.engine.foreign

    def burst(self, name):
        self.engine.end(name, oom_killed=True)

    def kill(self, name):
        self.engine.end(name)

    def down(self):
        self.engine.down = True

    def up(self):
        self.engine.down = False

    def close(self):
        self.down()


class RealRig:
    """A real Engine behind a socket that can be cut, and a hand in its containers."""

    def __init__(self, api, url, image, folder):
        self.image = image
        self.owner = unique("test")
        self.api = api
        self._relay = Relay(pathlib.Path(folder) / "docker.sock", url.removeprefix("unix://"))
        self._relay.up()
        self.engine = Engine(self.owner, url=self._relay.url)
        self.down = self._relay.down
        self.up = self._relay.up

    def say(self, name, text):
        self._order(name, f"echo {text}")
        assert until(lambda: text in self.engine.logs(name))

    def end(self, name, exit_code):
        self._order(name, f"exit {exit_code}")
        assert until(lambda: self.look(name)["State"]["Status"] == "exited")

    def program(self, command, answer):
        """Leave the program as it is: a real one ends by itself."""

    def burst(self, name):
        self._order(name, EAT)
        assert until(lambda: self.look(name)["State"]["Status"] == "exited")

    def kill(self, name):
        self.api.kill(name)

    def foreign(self, name):
        config = self.api.create_host_config(network_mode="host", tmpfs={"/tmp": ""})
        self.api.create_container(self.image, [OBEY], name=name, host_config=config)
        self.api.start(name)

    def look(self, name):
        return self.api.inspect_container(name)

    def close(self):
        self.engine.close()
        self._relay.down()
        for row in self.api.containers(all=True, filters={"name": self.owner}):
            with contextlib.suppress(docker.errors.NotFound):
                self.api.remove_container(row["Id"], force=True, v=True)

    def _order(self, name, script):
        words = ["/bin/sh", "-c", f'echo "$1" >{ORDERS}', "sh", script]
        self.api.exec_start(self.api.exec_create(name, words)["Id"])


@pytest.fixture(scope="session")
def shell(docker_url):
    """An image with a shell as its entry point, made once and taken away at the end."""
    reference = f"{unique('test')}/shell:1"
    with client(docker_url) as api:
        load_image(api, reference, shell_files(), ['ENTRYPOINT ["/bin/sh", "-c"]'])
        yield reference
        api.remove_image(reference, force=True)


@pytest.fixture
def folder():
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.fixture
def real(docker_url, shell, folder):
    with (
        client(docker_url) as api,
        contextlib.closing(RealRig(api, docker_url, shell, folder)) as r,
    ):
        yield r


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.engine)])
def rig(request):
    if request.param == "real":
        yield request.getfixturevalue("real")
        return
    with contextlib.closing(FakeRig()) as fake:
        yield fake


def container(rig, word="main", **wishes):
    """A container as this test wants it; it obeys the rig."""
    values = {
        "name": f"{rig.owner}-{word}",
        "part": Component.SUPERLINK,
        "image": rig.image,
        "command": (OBEY,),
        "tmpfs": (("/tmp", "size=1m"),),
        "memory_bytes": MEMORY_BYTES,
    }
    return Container(**{**values, **wishes})


def started(rig, **wishes):
    """Create and start a container; return its name."""
    want = container(rig, **wishes)
    rig.engine.create(want, want.image)
    rig.engine.start(want.name)
    return want.name


def found(rig, name):
    """Return the container of that name as the engine lists it, or None."""
    return next((c for c in rig.engine.containers() if c.name == name), None)


def refusal(call, *args, **wishes):
    with pytest.raises(AgentError) as caught:
        call(*args, **wishes)
    assert caught.value.retryable
    return caught.value.finding


class Watcher:
    """A thread that watches the engine until Docker goes away, and counts how often it wakes."""

    def __init__(self, engine):
        self._engine = engine
        self._wakes = 0
        self._seen = 0
        self._woke = threading.Condition()
        self._thread = threading.Thread(target=engine.watch, args=(self._wake,))
        self._thread.start()
        assert self.wakes_within(5), "the stream never stood"

    def wakes_within(self, limit_s):
        """Return whether it wakes, now or within the limit, since it was last asked."""
        with self._woke:
            came = self._woke.wait_for(lambda: self._wakes > self._seen, limit_s)
            self._seen = self._wakes
            return came

    def over(self):
        self._thread.join(5)
        return not self._thread.is_alive()

    def _wake(self):
        with self._woke:
            self._wakes += 1
            self._woke.notify_all()


@pytest.fixture
def watcher(rig):
    watcher = Watcher(rig.engine)
    yield watcher
    rig.down()
    assert watcher.over()


@pytest.fixture
def collected():
    yield
    gc.collect()


def breaks_connections(test):
    """Mark a test after which docker-py leaves sockets to the garbage collector."""
    ignored = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
    return ignored(pytest.mark.usefixtures("collected")(test))


def test_the_fake_has_what_the_engine_has():
    def public(kind):
        members = inspect.getmembers(kind, inspect.isfunction)
        return {n: list(inspect.signature(m).parameters) for n, m in members if n[0] != "_"}

    ours = public(FakeEngine)
    theirs = public(Engine)
    for name in ("calling", "bindings"):  # for other edges, which a fake does not serve
        del theirs[name]
    assert {name: ours.get(name) for name in theirs} == theirs


def test_the_fake_refuses_what_it_does_not_know():
    with pytest.raises(AssertionError, match="unhandled call: prune"):
        FakeEngine().prune()


def test_the_engine_tells_its_runtimes(rig):
    assert "runc" in rig.engine.offers().runtimes


def test_a_program_in_a_container_tells_its_status_and_what_it_wrote(rig):
    name = started(rig)
    rig.program(
        ("/bin/sh", "-c", "echo one; sleep 0.2; echo two >&2; exit 3"), Answer(3, "one\ntwo\n")
    )
    command = ("/bin/sh", "-c", "echo one; sleep 0.2; echo two >&2; exit 3")
    assert rig.engine.execute(name, command) == Answer(3, "one\ntwo\n")


def test_a_program_in_a_container_that_ended_is_refused(rig):
    name = started(rig)
    rig.engine.stop(name)
    assert refusal(rig.engine.execute, name, ("/bin/sh",)).code == "docker.refused"


def test_a_created_container_waits_for_its_start(rig):
    want = container(rig)
    rig.engine.create(want, want.image)
    have = found(rig, want.name)
    assert (have.status, have.running, have.mine) == ("created", False, True)
    assert (have.started_at, have.finished_at, have.error) == (None, None, "")


def test_a_started_container_runs_from_now_on(rig):
    before = datetime.datetime.now(datetime.UTC)
    have = found(rig, started(rig))
    assert (have.status, have.running, have.exit_code) == ("running", True, 0)
    assert before <= have.started_at <= datetime.datetime.now(datetime.UTC)
    assert have.finished_at is None


def test_a_stopped_container_tells_sigterm(rig):
    name = started(rig)
    rig.engine.stop(name)
    have = found(rig, name)
    assert (have.status, have.exit_code, have.oom_killed) == ("exited", 143, False)
    assert have.started_at <= have.finished_at


def test_a_removed_container_is_gone(rig):
    name = started(rig)
    rig.engine.stop(name)
    rig.engine.remove(name)
    assert found(rig, name) is None


def test_the_fingerprint_is_read_back(rig):
    want = container(rig, environment=(("FLWR_LOG_LEVEL", "INFO"),))
    rig.engine.create(want, want.image)
    have = found(rig, want.name)
    assert have.fingerprint == want.fingerprint
    assert have.image == want.image


def test_somebody_elses_container_is_seen_by_name_only(rig):
    name = f"{rig.owner}-theirs"
    rig.foreign(name)
    have = found(rig, name)
    assert not have.mine
    assert (have.fingerprint, have.image, have.started_at) == ("", "", None)


def test_a_running_container_may_be_started_again(rig):
    name = started(rig)
    before = found(rig, name)
    rig.engine.start(name)
    assert found(rig, name) == before


def test_a_stopped_container_may_be_stopped_again(rig):
    name = started(rig)
    rig.engine.stop(name)
    before = found(rig, name)
    rig.engine.stop(name)
    assert found(rig, name) == before


def test_what_is_absent_may_be_stopped_and_removed(rig):
    rig.engine.stop(f"{rig.owner}-absent")
    rig.engine.remove(f"{rig.owner}-absent")


def test_a_running_container_is_not_removed(rig):
    name = started(rig)
    finding = refusal(rig.engine.remove, name)
    assert finding.code == "docker.refused"
    assert "cannot remove a running container" in finding.message
    assert found(rig, name).running


def test_a_name_that_is_taken_is_no_refusal_since_the_list_tells_whose_it_is(rig):
    want = container(rig)
    rig.engine.create(want, want.image)
    finding = refusal(rig.engine.create, want, want.image)
    assert finding.code == "docker.busy"
    assert want.name in finding.message


def test_a_mount_without_a_source_is_refused_and_not_made(rig, tmp_path):
    source = tmp_path / "absent"
    want = container(rig, mounts=(Mount(str(source), "/app/state"),))
    finding = refusal(rig.engine.create, want, want.image)
    assert finding.code == "container.refused"
    assert f"bind source path does not exist: {source}" in finding.message
    assert not source.exists()


def test_an_image_that_is_not_here_is_refused(rig):
    finding = refusal(rig.engine.create, container(rig), "flower-agent-test/absent:1")
    assert finding.code == "container.refused"
    assert "No such image: flower-agent-test/absent:1" in finding.message


def test_an_absent_container_cannot_be_started(rig):
    finding = refusal(rig.engine.start, f"{rig.owner}-absent")
    assert finding.code == "container.refused"
    assert f"No such container: {rig.owner}-absent" in finding.message


@pytest.mark.parametrize("call", ["logs", "processes"])
def test_an_absent_container_tells_nothing(rig, call):
    assert refusal(getattr(rig.engine, call), f"{rig.owner}-absent").code == "docker.refused"


def test_an_absent_container_gets_no_cpu(rig):
    finding = refusal(rig.engine.give_cpu, f"{rig.owner}-absent")
    assert finding.code == "docker.refused"


def test_the_exit_code_is_told(rig):
    name = started(rig)
    rig.end(name, 7)
    have = found(rig, name)
    assert (have.status, have.exit_code, have.oom_killed) == ("exited", 7, False)


def test_a_killed_container_is_told_from_one_that_burst(rig):
    name = started(rig)
    rig.kill(name)
    have = found(rig, name)
    assert (have.exit_code, have.oom_killed) == (137, False)


def test_a_container_that_used_up_its_memory_is_marked(rig):
    name = started(rig)
    rig.burst(name)
    have = found(rig, name)
    assert (have.exit_code, have.oom_killed) == (137, True)


def test_a_container_that_was_started_again_runs_as_new(rig):
    name = started(rig)
    rig.end(name, 7)
    ended = found(rig, name)
    rig.engine.start(name)
    have = found(rig, name)
    assert (have.status, have.exit_code) == ("running", 0)
    assert have.started_at > ended.finished_at == have.finished_at


def test_logs_come_whole_or_by_their_last_lines(rig):
    name = started(rig)
    rig.say(name, "one")
    rig.say(name, "two")
    rig.say(name, "three")
    assert rig.engine.logs(name) == "one\ntwo\nthree\n"
    assert rig.engine.logs(name, tail=2) == "two\nthree\n"
    assert rig.engine.logs(name, tail=0) == ""


def test_a_stamped_log_has_dockers_time_in_front_of_each_line(rig):
    name = started(rig)
    before = datetime.datetime.now(datetime.UTC)
    rig.say(name, "one")
    rig.end(name, 0)
    for text in (rig.engine.logs(name, stamped=True),
                 "".join(rig.engine.follow(name, tail=9, stamped=True))):  # fmt: skip
        (line,) = logs.of_container(name, text)
        assert (line.who, line.text) == (name, "one")
        assert abs(line.at - before) < datetime.timedelta(seconds=10)


def test_logs_begin_at_the_given_moment_and_not_at_its_second(rig):
    name = started(rig)
    rig.say(name, "before")
    moment = datetime.datetime.now(datetime.UTC)
    rig.say(name, "after")
    assert rig.engine.logs(name, since=moment) == "after\n"


def test_logs_outlive_their_container(rig):
    name = started(rig)
    rig.say(name, "last words")
    rig.end(name, 7)
    assert rig.engine.logs(name, tail=30) == "last words\n"


def test_following_gives_what_was_said_and_ends_with_the_container(rig):
    name = started(rig)
    rig.say(name, "old")
    rig.say(name, "new")
    rig.end(name, 0)
    assert "".join(rig.engine.follow(name, tail=1)) == "new\n"


def test_the_processes_of_a_container_are_told(rig):
    assert any(ORDERS in line for line in rig.engine.processes(started(rig)))


def test_a_stopped_container_has_no_processes(rig):
    name = started(rig)
    rig.engine.stop(name)
    finding = refusal(rig.engine.processes, name)
    assert finding.code == "docker.refused"
    assert "is not running" in finding.message


def test_a_container_that_yields_gets_its_full_share_later(rig):
    name = started(rig, yields_cpu=True)
    assert found(rig, name).cpu_shares == CPU_SHARES_STARTING
    rig.engine.give_cpu(name)
    assert found(rig, name).cpu_shares == CPU_SHARES


def test_an_absent_image_is_none(rig):
    assert rig.engine.image("flower-agent-test/absent:1") is None


def test_an_image_that_was_made_here_has_no_digest(rig):
    image = rig.engine.image(rig.image)
    assert image.image_id.startswith("sha256:")
    assert image.digests == ()


def test_the_end_of_a_container_wakes_within_a_second(rig, watcher):
    name = started(rig)
    assert until(lambda: not watcher.wakes_within(0.2))
    rig.kill(name)
    assert watcher.wakes_within(1)


def test_looking_wakes_nobody(rig, watcher):
    name = started(rig)
    assert until(lambda: not watcher.wakes_within(0.2))
    rig.engine.containers()
    rig.engine.processes(name)
    rig.engine.logs(name)
    rig.engine.image(rig.image)
    assert not watcher.wakes_within(0.3)


def test_somebody_elses_container_wakes_nobody(rig, watcher):
    rig.foreign(f"{rig.owner}-theirs")
    assert not watcher.wakes_within(0.3)


def test_a_watch_ends_when_docker_goes_away_and_begins_again_after(rig):
    first = Watcher(rig.engine)
    rig.down()
    assert first.over()
    rig.up()
    second = Watcher(rig.engine)
    started(rig)
    assert second.wakes_within(1)
    rig.down()
    assert second.over()


@breaks_connections
def test_while_docker_is_away_every_call_says_so_and_then_all_is_well(rig):
    name = started(rig)
    rig.down()
    calls = {
        "offers": (),
        "containers": (),
        "create": (container(rig, "other"), rig.image),
        "start": (name,),
        "stop": (name,),
        "remove": (name,),
        "give_cpu": (name,),
        "logs": (name,),
        "processes": (name,),
        "image": (rig.image,),
        "pull": (rig.image,),
        "watch": (lambda: None,),
    }
    codes = {call: refusal(getattr(rig.engine, call), *args).code for call, args in calls.items()}
    assert codes == dict.fromkeys(calls, "docker.down")
    rig.up()
    assert found(rig, name).running


@pytest.mark.engine
def test_containers_are_shut_in(real, tmp_path):
    want = container(
        real,
        environment=(("FLWR_TELEMETRY_ENABLED", "0"),),
        mounts=(Mount(str(tmp_path), "/app/certificates"),),
        hosts=(("fl.example.org", "127.0.0.1"),),
        yields_cpu=True,
    )
    real.engine.create(want, want.image)
    host = real.look(want.name)["HostConfig"]
    expected = {
        "NetworkMode": "host",
        "ExtraHosts": ["fl.example.org:127.0.0.1"],
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "Init": True,
        "ReadonlyRootfs": True,
        "CapAdd": None,
        "CapDrop": ["ALL"],
        "Privileged": False,
        "SecurityOpt": ["no-new-privileges"],
        "Tmpfs": {"/tmp": "size=1m"},
        "PidsLimit": PIDS_LIMIT,
        "Memory": MEMORY_BYTES,
        "MemorySwap": MEMORY_BYTES,
        "CpuShares": CPU_SHARES_STARTING,
        "CpuPeriod": CPU_PERIOD_US,
        "CpuQuota": CPU_QUOTA_STARTING_US,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "Binds": None,
        "DeviceRequests": [],
        "AutoRemove": False,
    }
    assert {key: host[key] for key in expected} == expected
    real.engine.start(want.name)
    real.engine.give_cpu(want.name)
    host = real.look(want.name)["HostConfig"]
    assert (host["CpuShares"], host["CpuQuota"]) == (CPU_SHARES, -1)


@pytest.mark.engine
def test_a_containers_configuration_is_ours_alone(real):
    want = container(real, environment=(("FLWR_TELEMETRY_ENABLED", "0"),))
    real.engine.create(want, want.image)
    config = real.look(want.name)["Config"]
    assert config["Labels"] == {
        LABEL_NAME: real.owner,
        LABEL_ROLE: "superlink",
        LABEL_FINGERPRINT: want.fingerprint,
    }
    assert config["Healthcheck"] == {"Test": ["NONE"]}
    assert config["Cmd"] == list(want.command)
    assert "FLWR_TELEMETRY_ENABLED=0" in config["Env"]
    assert not [value for value in config["Env"] if "proxy" in value.lower()]


@pytest.mark.engine
@pytest.mark.parametrize(("wanted", "size_kib"), [(96 << 20, 98304), (None, 65536)])
def test_shared_memory_is_as_large_as_wanted(real, wanted, size_kib):
    script = 'while read -r _ at _ options _; do [ "$at" = /dev/shm ] && echo "$options"; done'
    name = started(real, command=(f"{script} </proc/mounts",), shm_bytes=wanted)
    assert until(lambda: not found(real, name).running)
    assert f"size={size_kib}k" in real.engine.logs(name)


@pytest.mark.engine
@pytest.mark.parametrize("propagation", ["rprivate", "rslave"])
@pytest.mark.parametrize("read_only", [True, False])
def test_mounts_are_bound_as_wanted(real, tmp_path, propagation, read_only):
    mount = Mount(str(tmp_path), "/app/data", read_only, propagation=propagation)
    want = container(real, mounts=(mount,))
    real.engine.create(want, want.image)
    (bound,) = real.look(want.name)["Mounts"]
    assert bound == {
        "Type": "bind",
        "Source": str(tmp_path),
        "Destination": "/app/data",
        "Mode": "",
        "RW": not read_only,
        "Propagation": propagation,
    }


@pytest.mark.engine
def test_a_container_finds_itself_shut_in(real, tmp_path):
    script = """
        while read -r key value; do
            case $key in CapEff:|NoNewPrivs:) echo "$key $value" ;; esac
        done </proc/self/status
        for place in /own /mounted/own /tmp/own; do
            (: >"$place") 2>/dev/null && echo "$place is writable" || echo "$place is not"
        done
    """
    name = started(real, command=(script,), mounts=(Mount(str(tmp_path), "/mounted"),))
    assert until(lambda: not found(real, name).running)
    assert real.engine.logs(name).splitlines() == [
        "CapEff: 0000000000000000",
        "NoNewPrivs: 1",
        "/own is not",
        "/mounted/own is not",
        "/tmp/own is writable",
    ]


@pytest.mark.parametrize("access", [GpuAccess.TOOLKIT, GpuAccess.CDI])
def test_a_gpu_that_docker_cannot_give_is_refused_at_the_start(rig, access):
    if "nvidia" in rig.engine.offers().runtimes:
        pytest.skip("this Engine has the NVIDIA runtime")
    want = container(rig, gpu=access)
    rig.engine.create(want, want.image)
    finding = refusal(rig.engine.start, want.name)
    assert finding.code == "gpu.not_configured"
    assert "could not select device driver" in finding.message
    have = found(rig, want.name)
    assert have.status == "created"
    assert "could not select device driver" in have.error


@pytest.mark.engine
def test_a_paused_container_counts_as_running_and_can_be_stopped(real):
    name = started(real)
    real.api.pause(name)
    assert found(real, name).running
    real.engine.stop(name)
    assert found(real, name).status == "exited"


class Daemon:
    """A server on a socket of its own that answers as a test says: path → status and body."""

    def __init__(self, folder, **answers):
        self.answers = {"version": {"ApiVersion": "1.41"}, **answers}
        self.asked = []
        daemon = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def address_string(self):
                return "agent"

            def log_message(self, *_):
                pass

            def do_GET(self):
                word = self.path.partition("?")[0].rpartition("/")[2]
                daemon.asked.append(word)
                answer = daemon.answers[word]
                if callable(answer):
                    self.close_connection = True
                    answer(self)
                    return
                status, body = answer if isinstance(answer, tuple) else (200, answer)
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self):
                self.do_GET()

        self.url = f"unix://{folder}/daemon.sock"
        self.over = threading.Event()
        self._server = socketserver.ThreadingUnixStreamServer(f"{folder}/daemon.sock", Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def engine_of(folder, *, timeout_s=5, slow_s=5, **answers):
    """An Engine whose daemon answers as told."""
    with contextlib.closing(Daemon(folder, **answers)) as daemon:
        engine = Engine("test", url=daemon.url, timeout_s=timeout_s, slow_s=slow_s)
        with contextlib.closing(engine):
            yield engine, daemon


def chunks(*lines, whole=True):
    """Return an answer that streams `lines` and, if not `whole`, breaks off."""

    def answer(request):
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for line in lines:
            data = json.dumps(line).encode() + b"\r\n"
            request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if whole:
            request.wfile.write(b"0\r\n\r\n")

    return answer


@pytest.mark.engine
def test_a_gpu_by_cdi_reaches_docker_by_its_name(real):
    want = container(real, gpu=GpuAccess.CDI)
    real.engine.create(want, want.image)
    (asked,) = real.look(want.name)["HostConfig"]["DeviceRequests"]
    assert (asked["Driver"], asked["DeviceIDs"]) == ("cdi", ["nvidia.com/gpu=all"])
    assert [c.gpu for c in real.engine.containers() if c.name == want.name] == [GpuAccess.CDI]


@breaks_connections
def test_a_new_engine_tells_the_devices_that_it_discovered(folder):
    device = {"Source": "cdi", "ID": "nvidia.com/gpu=all"}
    info = {"Runtimes": {"runc": {}}, "DiscoveredDevices": [device]}
    with engine_of(folder, info=info) as (engine, _):
        assert engine.offers() == Offers(
            runtimes=frozenset({"runc"}), cdi=frozenset({"nvidia.com/gpu=all"})
        )


@breaks_connections
def test_a_socket_that_is_not_there_is_named(folder):
    with contextlib.closing(Engine("test", url=f"unix://{folder}/docker.sock")) as engine:
        finding = refusal(engine.containers)
    assert finding.code == "docker.down"
    assert f"unix://{folder}/docker.sock" in finding.message
    assert "its socket is not there" in finding.message


@breaks_connections
@pytest.mark.parametrize("word", ["version", "json"])
def test_a_daemon_that_hangs_is_down_after_the_time_limit(folder, word):
    def hang(_):
        daemon.over.wait(5)

    with engine_of(folder, timeout_s=1, **{word: hang}) as (engine, daemon):
        begin = time.monotonic()
        finding = refusal(engine.containers)
        assert 0.9 < time.monotonic() - begin < 2
    assert finding.code == "docker.down"
    assert finding.message == f"Docker does not answer at {daemon.url}: timed out"


WANT = Container(name="flower-x", part=Component.SUPERLINK, image="x", command=("run",))
IN_USE = 'Conflict. The container name "/flower-x" is already in use by container "abc".'


@breaks_connections
def test_a_container_that_docker_makes_for_long_is_waited_for_longer_than_other_calls(folder):
    def slow(request):
        daemon.over.wait(1.5)
        request.send_response(201)
        request.send_header("Content-Length", "12")
        request.end_headers()
        request.wfile.write(b'{"Id":"abc"}')

    with engine_of(folder, timeout_s=1, slow_s=5, create=slow) as (engine, daemon):
        engine.create(WANT, "x")
    assert "create" in daemon.asked


@breaks_connections
def test_docker_that_is_at_it_for_too_long_refuses_nothing(folder):
    def hang(_):
        daemon.over.wait(5)

    with engine_of(folder, slow_s=1, create=hang, start=hang) as (engine, daemon):
        assert refusal(engine.create, WANT, "x").code == "docker.busy"
        assert refusal(engine.start, "flower-x").code == "docker.busy"


@breaks_connections
def test_a_name_that_docker_is_still_at_work_for_refuses_nothing(folder):
    with engine_of(folder, create=(409, {"message": IN_USE})) as (engine, daemon):
        found = refusal(engine.create, WANT, "x")
        assert found.code == "docker.busy"
        assert found.message == "Docker still works: create flower-x"
        daemon.answers["create"] = (409, {"message": "Conflict of another kind"})
        assert refusal(engine.create, WANT, "x").code == "container.refused"


@pytest.mark.engine
def test_a_container_has_the_machines_user_namespace(real):
    want = container(real)
    real.engine.create(want, want.image)
    assert real.look(want.name)["HostConfig"]["UsernsMode"] == "host"


@breaks_connections
def test_an_upgraded_daemon_is_asked_anew_for_its_version(folder):
    old = (400, {"message": "client version 1.41 is too old. Minimum supported is 1.44"})
    with engine_of(folder, json=old) as (engine, daemon):
        assert refusal(engine.containers).code == "docker.refused"
        daemon.answers |= {"version": {"ApiVersion": "1.44"}, "json": []}
        assert engine.containers() == ()
    assert daemon.asked == ["version", "json", "version", "json"]


PULLING = {"status": "Pulling from flwr/superlink", "id": "1.25.0"}


@breaks_connections
def test_a_daemon_that_dies_in_a_pull_is_down(folder):
    said = []
    with engine_of(folder, create=chunks(PULLING, whole=False)) as (engine, _):
        finding = refusal(engine.pull, "flwr/superlink:1.25.0", progress=said.append)
    assert finding.code == "docker.down"
    assert said == ["Pulling from flwr/superlink"]


@breaks_connections
def test_a_pull_that_is_over_without_the_image_failed(folder):
    gone = (404, {"message": "No such image: flwr/superlink:1.25.0"})
    with engine_of(folder, create=chunks(PULLING), json=gone) as (engine, _):
        finding = refusal(engine.pull, "flwr/superlink:1.25.0")
    assert finding.code == "image.pull"
    assert "flwr/superlink:1.25.0" in finding.message

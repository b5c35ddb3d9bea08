"""What runs leave, what apps find, and the truth about a run: with the default and newest Flower.

Each app is a few lines of ours that do what a real app does (tests/federation/small_apps.py). One
federation of each version runs them all; `flower-agent submit` starts them.
"""

import dataclasses
import http.server
import json
import pathlib
import re
import subprocess
import sys
import threading

import pytest
import small_apps
import tinyproxy
from watched import WatchedFederation, docker, wait_for

ROOT = pathlib.Path(__file__).parents[2]
PORTS = {"1.25.0": 22600, "1.42.0": 22700}
LIMIT = 256 * 1024**2
CANARY = "patient-4711"

pytestmark = [pytest.mark.engine, pytest.mark.federation]


@dataclasses.dataclass
class Done:
    """A run that `submit` followed to its end."""

    run_id: str
    code: int
    said: str
    place: pathlib.Path

    def read(self, name):
        return json.loads((self.place / f"{name}.json").read_text())

    @property
    def files(self):
        return {each["name"]: each for each in self.read("outputs")["files"]}


class Site:
    """A federation and what is asked of it."""

    def __init__(self, federation, place, proxy):
        self.federation = federation
        self.proxy = proxy
        self.link = federation.superlink
        self.runs = self.link.root / "var/lib/flower-agent/runs"
        self._place = place
        self._count = 0

    def app(self, **behaviour):
        self._count += 1
        return small_apps.write(self._place, f"app{self._count}", **behaviour)

    def submit(self, directory, *more):
        done = self.federation.agent(self.link, "submit", str(directory), *more)
        found = re.search(r"^run (\d+):", done.stdout, re.MULTILINE)
        assert found, done
        return Done(found[1], done.returncode, done.stdout, self.runs / found[1])

    def run(self, **behaviour):
        return self.submit(self.app(**behaviour))

    def told(self, name, machine=None):
        return self.federation.attributes(machine or self.link).get(name, "")

    def codes(self, machine=None):
        found = self.federation.status(machine or self.link).get("warnings", ())
        return {each["code"]: each["message"] for each in found}

    def published(self):
        """Return all that others can read: OneGate's attributes and the status files."""
        machines = self.federation.machines
        texts = [json.dumps(self.federation.attributes(each)) for each in machines]
        return texts + [json.dumps(self.federation.status(each)) for each in machines]


@pytest.fixture(scope="module", params=PORTS)
def site(request, tmp_path_factory, images):
    version = request.param
    build = [sys.executable, ROOT / "contrib/images/build.py", "--flower", version]
    subprocess.run(build, check=True)
    with tinyproxy.serving(tmp_path_factory.mktemp("proxy")) as proxy:
        yield from deployed(tmp_path_factory, version, proxy)


def deployed(tmp_path_factory, version, proxy):
    federation = WatchedFederation(
        tmp_path_factory.mktemp("apps"),
        name=f"apps{version.split('.')[1]}",
        base_port=PORTS[version],
        variables={
            "FLOWER_VERSION": version,
            "ML_FRAMEWORK": "",
            "FLOWER_MEMORY_LIMIT": "700M",
            "FLOWER_OUTPUTS_LIMIT": str(LIMIT),
            "FLOWER_CACHE_LIMIT": str(LIMIT),
            "FLOWER_HTTP_PROXY": proxy.url,
            "FLOWER_HTTPS_PROXY": proxy.url,
        },
        environment={"FLOWER_AGENT_TIME_SCALE": "0.2"},
        say=lambda _: None,
    )
    try:
        federation.up()
        federation.connected()
        yield Site(federation, tmp_path_factory.mktemp("written"), proxy)
    finally:
        federation.down()


@pytest.fixture
def far():
    """A site that is reached through the proxy alone, since it is no loopback by name; its port."""

    class Data(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the data")

    with http.server.ThreadingHTTPServer(("127.0.0.9", 0), Data) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_model_is_kept_and_fetched_as_it_was(site, tmp_path):
    done = site.run(
        server="""
        numpy.savez("final_model.npz", *result.arrays.to_numpy_ndarrays())
        pathlib.Path("plots/deep").mkdir(parents=True)
        pathlib.Path("plots/deep/loss.csv").write_text("round,loss\\n1,0.5\\n")
        """
    )
    assert (done.code, "\nfinished\n" in done.said) == (0, True), done.said
    assert set(done.files) == {"final_model.npz", "plots/deep/loss.csv"}
    assert str(done.place / "outputs") in done.said
    fetched = site.federation.agent(
        site.link, "runs", "fetch", done.run_id, "-o", str(tmp_path / "here")
    )
    assert fetched.returncode == 0, fetched
    assert (tmp_path / "here/plots/deep/loss.csv").read_text() == "round,loss\n1,0.5\n"
    assert "round" in (done.place / "log.txt").read_text().lower()
    assert "\x1b" not in (done.place / "log.txt").read_text()
    (row,) = (json.loads(line) for line in (done.place / "metrics.jsonl").read_text().splitlines())
    assert (row["round"], row["train"]) == (1, {"loss": 0.5})
    assert (row["replies"]["train"]["results"], row["replies"]["train"]["failures"]) == (2, 0)
    shown = site.federation.agent(site.link, "runs", "show", done.run_id).stdout
    assert re.search(r"final_model.npz .* sha256:[0-9a-f]{64}", shown)
    assert not (site.runs / "live" / done.run_id).exists()


FETCH = """
import contextlib, urllib.request
with contextlib.suppress(OSError):
    urllib.request.urlopen("https://127.0.0.9:{0}/tunnel")
with urllib.request.urlopen("http://127.0.0.9:{0}/{1}") as answer:
    assert answer.read() == b"the data"
"""


def test_apps_reach_the_world_through_the_proxy_and_flower_nothing(site, far):
    before = len(site.proxy.asked)
    done = site.run(server=FETCH.format(far, "server"), client=FETCH.format(far, "client"))
    assert done.code == 0, done.said
    asked = sorted(site.proxy.asked[before:])
    page = f"http://127.0.0.9:{far}/"
    assert asked == [f"127.0.0.9:{far}"] * 3 + [f"{page}client"] * 2 + [f"{page}server"]
    assert {url for url in site.proxy.asked if "127.0.0.9" not in url} == set()


def test_two_runs_at_once_do_not_collide(site):
    app = site.app(
        rounds=2,
        server='pathlib.Path("model.bin").write_text(context.run_config["nodes"] * "x")',
    )
    detached = site.federation.agent(site.link, "submit", str(app), "--detach")
    first = re.search(r"^run (\d+):", detached.stdout, re.MULTILINE)[1]
    second = site.submit(app)
    wait_for((site.runs / first / "outputs.json").exists, "the first run's outputs", 120)
    for run in (first, second.run_id):
        assert (site.runs / run / "outputs/model.bin").read_text() == "xx"


def test_links_pipes_and_sparse_files_do_no_harm(site):
    key = "/app/keys/node.key"
    done = site.run(
        server=f"""
        os.symlink("{key}", "link.pem")
        os.symlink("/", "root")
        os.mkfifo("pipe")
        open("model.bin", "wb").write(b"x")
        os.chmod("model.bin", 0)
        os.mkdir("closed"), open("closed/in.txt", "w").write("y"), os.chmod("closed", 0)
        try:
            os.truncate(os.open("sparse", os.O_CREAT | os.O_WRONLY), 1 << 40)
        except OSError as error:
            print("refused:", error.strerror, flush=True)
        """
    )
    assert done.code == 0, done.said
    assert set(done.files) == {"model.bin", "closed/in.txt", "sparse"}
    assert done.files["sparse"]["bytes"] == 0
    assert "refused: File too large" in (done.place / "log.txt").read_text()
    assert done.read("outputs")["left_out"] == 3
    assert not [path for path in (done.place / "outputs").rglob("*") if path.is_symlink()]


def test_a_run_that_writes_more_than_it_may_is_ended_and_its_log_says_so(site):
    done = site.run(
        server="""
        import time
        for number in range(400):
            open(f"part{number}", "wb").write(b"x" * (2 << 20))
            time.sleep(0.02)
        """
    )
    assert done.code == 1
    assert "FLOWER_OUTPUTS_LIMIT" in (done.place / "log.txt").read_text()
    ended = done.read("run")
    assert ended["end"] == "failed"
    assert "it wrote more than 256 MiB (FLOWER_OUTPUTS_LIMIT)" in ended["cause"]
    assert done.read("outputs")["bytes"] <= LIMIT


def test_a_later_app_finds_nothing_of_an_earlier_one(site):
    plant = """
    home = pathlib.Path.home()
    (home / ".flwr/apps/planted").mkdir(parents=True, exist_ok=True)
    packages = home / ".local/lib/python3/site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "evil.pth").write_text("import os; os._exit(9)")
    pathlib.Path(os.environ["HF_HOME"]).mkdir(parents=True, exist_ok=True)
    (pathlib.Path(os.environ["HF_HOME"]) / "token").write_text("mine")
    open("mine.txt", "w").write("x")
    """
    look = """
    home = pathlib.Path.home()
    seen = [p for p in (home / ".flwr/apps/planted", pathlib.Path(os.environ["HF_HOME"]) / "token",
                        *home.glob(".local/lib/*/site-packages/*")) if p.exists()]
    seen += [p for p in pathlib.Path("/app/runs").rglob("mine.txt")]
    assert not seen, seen
    assert os.environ["PYTHONNOUSERSITE"] == "1"
    """
    assert site.run(server=plant).code == 0
    done = site.run(server=look)
    assert done.code == 0, (done.place / "log.txt").read_text()[-2000:]


def test_a_cache_lasts_for_the_same_bundle(site):
    app = site.app(
        server="""
        cache = pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "weights"
        open("found", "w").write(str(cache.exists()))
        cache.parent.mkdir(parents=True, exist_ok=True), cache.write_text("w")
        """
    )
    found = [(site.submit(app).place / "outputs/found").read_text() for _ in range(2)]
    assert found == ["False", "True"]


def test_home_shared_memory_and_the_directory_of_a_clientapp_work(site):
    done = site.run(
        rounds=2,
        client="""
        from multiprocessing import shared_memory
        (pathlib.Path.home() / ".cache/huggingface").mkdir(parents=True, exist_ok=True)
        memory = shared_memory.SharedMemory(create=True, size=200 << 20)
        memory.buf[:] = bytes(200 << 20)
        memory.close(), memory.unlink()
        seen = pathlib.Path("data/rounds")
        seen.parent.mkdir(exist_ok=True)
        with seen.open("a") as file:
            file.write("x")
        print("DATA", seen.read_text(), flush=True)
        """,
    )
    assert (done.code, "with failures" in done.said) == (0, False), done.said
    logs = docker("logs", f"{site.federation.supernodes[0].prefix}-flower-superexec")
    if "DATA" in logs:  # newer Flowers show a ClientApp's output as well
        assert "DATA xx" in logs


def test_an_exception_that_flower_hides_is_told(site):
    done = site.run(server='raise RuntimeError("size mismatch")')
    assert done.code == 1
    assert done.read("run")["cause"] == "RuntimeError: size mismatch"
    assert "RuntimeError: size mismatch" in (done.place / "log.txt").read_text()
    wait_for(lambda: site.told("FLOWER_RUN") == "failed: RuntimeError", "the class", 60)
    assert "size mismatch" not in "".join(site.published())


def test_a_clientapp_that_raises_everywhere_fails_the_run_and_tells_no_data(site):
    done = site.run(client=f'raise ValueError("no column {CANARY}")')
    assert done.code == 1
    assert "round 1 of 1: 0 results, 2 failures: ValueError" in done.said
    assert done.read("run")["end"] == "failed"
    assert f"ValueError: no column {CANARY}" in done.read("run")["cause"]
    wait_for(
        lambda: site.told("FLOWER_RUN") == "failed: round 1: 0 of 2 results: ValueError",
        "the truth at OneGate",
    )
    node = site.federation.supernodes[0]
    wait_for(
        lambda: site.told("FLOWER_APP_ERROR", node) == f"ValueError; run {done.run_id}",
        "the node's word",
    )
    assert "run.client_failed" in site.codes(node)
    assert CANARY not in "".join(site.published())


def test_a_run_with_one_failed_reply_is_finished_with_failures(site):
    done = site.run(
        client="""
        if context.node_config["partition-id"] == 0:
            raise ValueError("no column 'age'")
        """
    )
    assert done.code == 0
    assert "finished with failures: round 1: 1 of 2 results: ValueError" in done.said
    wait_for(lambda: "run.clients_failed" in site.codes(), "the warning")


@pytest.mark.parametrize(
    ("client", "how"),
    [
        ("os._exit(7)", "ended with status 7"),
        ("os.kill(os.getpid(), 9)", "was killed (SIGKILL)"),
        (
            "held = []\nwhile True: held.append(bytearray(50_000_000))",
            "was killed: the memory limit was reached",
        ),
    ],
)
def test_a_clientapp_that_dies_is_told_on_its_node_at_once(site, client, how):
    guard = 'if context.node_config["partition-id"] == 0:\n    '
    app = site.app(client=guard + client.replace("\n", "\n    "))
    detached = site.federation.agent(site.link, "submit", str(app), "--detach")
    run = re.search(r"^run (\d+):", detached.stdout, re.MULTILINE)[1]
    node = site.federation.supernodes[0]

    def told():
        return how in site.codes(node).get("run.client_died", "")

    wait_for(told, f"{how} on the node", 90)
    assert f"run {run}" in site.codes(node)["run.client_died"]
    heard = f"VM {node.vmid} reports: a ClientApp of run {run}"
    wait_for(lambda: heard in site.codes().get("run.client_died", ""), "the SuperLink's word", 60)
    assert site.federation.agent(site.link, "stop", run).returncode == 0
    wait_for((site.runs / run / "run.json").exists, "the end of the run", 90)
    assert json.loads((site.runs / run / "run.json").read_text())["end"] == "stopped"


def test_a_run_that_flwr_starts_is_kept_too(site):
    app = site.app(server='open("model.bin", "wb").write(b"x")')
    site.federation._app = app
    for _ in site.federation.submit():
        pass

    def newest():
        listed = site.federation.agent(site.link, "runs", "--json").stdout
        return json.loads(listed)["runs"][-1]

    wait_for((site.runs / newest()["run_id"] / "outputs/model.bin").exists, "its model")
    wait_for(lambda: newest()["metrics"], "its metrics")
    assert (newest()["status"], newest()["by"]) == ("finished", "")


def test_a_deleted_run_says_so_and_a_named_file_that_is_missing_is_told(site):
    done = site.run(server='open("model.bin", "wb").write(b"x")')
    asked = site.federation.agent(site.link, "runs", "fetch", done.run_id, "none.bin")
    assert asked.returncode == 1
    assert asked.stderr.startswith("run.no_outputs: run")
    assert "The run has: model.bin" in asked.stderr
    assert site.federation.agent(site.link, "runs", "delete", done.run_id).returncode == 0
    assert [path.name for path in done.place.iterdir()] == ["run.json"]
    shown = site.federation.agent(site.link, "runs", "show", done.run_id).stdout
    assert "gone: deleted by an operator" in shown

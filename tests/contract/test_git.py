"""Apps from real git repositories: on disk, over HTTPS with a login, and hostile ones."""

import base64
import contextlib
import functools
import hashlib
import http.server
import os
import pathlib
import ssl
import struct
import subprocess
import threading
import time
import zlib

import endpoints
import pytest
import tinyproxy

from flower_agent.config.types import AppSource, parse_app_source
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.runs import git as module
from flower_agent.runs import git as runs_git
from flower_agent.runs.git import Git

APP = {"pyproject.toml": "[project]\n", "mine/client.py": "print('never run')\n", "README.md": "x"}
sha1 = functools.partial(hashlib.sha1, usedforsecurity=False)
BACKEND = "/usr/lib/git-core/git-http-backend"


class Repository:
    """A repository on disk that a test commits to."""

    def __init__(self, path):
        self.path = path
        self.url = f"file://{path}"
        path.mkdir(parents=True)
        self.run("init", "-q", "-b", "main")
        self.commit(APP)

    def run(self, *arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *who, *arguments]
        done = subprocess.run(command, cwd=self.path, check=True, capture_output=True, timeout=60)
        return done.stdout.decode().strip()

    def write(self, files):
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, files=()):
        self.write(dict(files))
        self.run("add", "-A", "-f")
        self.run("commit", "-q", "--allow-empty", "-m", "x")
        return self.run("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "app")


def git(tmp_path, **more):
    return Git(tmp_path / "runs", protocols="file", **more)


def failure(call, *args):
    with pytest.raises(AgentError) as caught:
        call(*args)
    assert caught.value.finding.hint
    return caught.value.finding


def test_the_head_is_fetched_as_data_and_nothing_is_left(tmp_path, repository):
    commit, files = git(tmp_path).fetch(AppSource(repository.url))
    assert commit == repository.run("rev-parse", "HEAD")
    assert {name: data.decode() for name, data in files.items()} == APP
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_branch_a_tag_and_a_commit_are_fetched(tmp_path, repository):
    first = repository.run("rev-parse", "HEAD")
    repository.run("tag", "-a", "v1", "-m", "x")
    repository.run("checkout", "-q", "-b", "feature/x")
    second = repository.commit({"mine/new.py": "1"})
    for ref, want in (("main", first), ("v1", first), ("feature/x", second), (first, first)):
        commit, files = git(tmp_path).fetch(AppSource(repository.url, ref))
        assert commit == want
        assert ("mine/new.py" in files) == (want == second)


def test_only_the_newest_commit_is_fetched(tmp_path, repository):
    repository.commit({"large.md": os.urandom(3 << 20)})
    repository.run("rm", "-q", "large.md")
    repository.commit()
    _, files = git(tmp_path, limit_bytes=2 << 20).fetch(AppSource(repository.url))
    assert sorted(files) == sorted(APP)


def test_what_a_ref_means_now_is_asked_without_a_fetch(tmp_path, repository):
    first = repository.run("rev-parse", "HEAD")
    repository.run("tag", "-a", "v1", "-m", "x")
    second = repository.commit({"mine/new.py": "1"})
    asked = git(tmp_path)
    assert asked.resolve(AppSource(repository.url)) == second
    assert asked.resolve(AppSource(repository.url, "main")) == second
    assert asked.resolve(AppSource(repository.url, "v1")) == first
    assert failure(asked.resolve, AppSource(repository.url, "gone")).code == "run.no_ref"


def test_an_app_in_a_subdirectory_comes_with_paths_of_its_own(tmp_path, repository):
    repository.commit({"apps/a/pyproject.toml": "x", "apps/b/pyproject.toml": "y"})
    _, files = git(tmp_path).fetch(AppSource(repository.url, "main", "apps/a"))
    assert files == {"pyproject.toml": b"x"}
    found = failure(git(tmp_path).fetch, AppSource(repository.url, "main", "apps/c"))
    assert (found.code, "no directory apps/c" in found.message) == ("run.no_app", True)


def test_symlinks_submodules_and_other_kinds_of_files_are_left_out(tmp_path, repository):
    (repository.path / "passwd.py").symlink_to("/etc/passwd")
    (repository.path / "up.md").symlink_to("../../../secret.md")
    repository.commit({"data.bin": b"\0" * 100, "LICENSE": "free", ".gitattributes": "* filter=x"})
    head = repository.run("rev-parse", "HEAD")
    repository.run("update-index", "--add", "--cacheinfo", f"160000,{head},sub.py")
    repository.run("commit", "-q", "-m", "x")
    _, files = git(tmp_path).fetch(AppSource(repository.url))
    assert sorted(files) == sorted([*APP, "LICENSE"])


def test_nothing_of_a_hostile_repository_runs(tmp_path, repository):
    ran = tmp_path / "ran"
    for hook in ("post-checkout", "reference-transaction", "post-merge", "pre-auto-gc"):
        repository.write({f".git/hooks/{hook}": f"#!/bin/sh\ntouch {ran}\n"})
        (repository.path / ".git/hooks" / hook).chmod(0o755)
    evil = f"!touch {ran}; false"
    repository.commit(
        {
            ".gitattributes": "*.py filter=evil diff=evil merge=evil",
            ".gitmodules": f'[submodule "s"]\n\tpath = s\n\turl = ext::sh -c "touch {ran}"\n'
            "\tupdate = none\n",
            ".lfsconfig": "[lfs]\nurl=http://127.0.0.1:1\n",
            "conftest.py": f"open({str(ran)!r}, 'w')",
            "setup.py": f"open({str(ran)!r}, 'w')",
        }
    )
    ran.unlink(missing_ok=True)  # a hook ran at the commit, in the test's own repository
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[core]\nfsmonitor = "{evil}"\nsshCommand = "{evil}"\n[filter "evil"]\nsmudge = "{evil}"\n'
    )
    environment = {**os.environ, "HOME": str(home), "GIT_SSH_COMMAND": evil, "GIT_ASKPASS": evil}
    _, files = git(tmp_path, environment=environment).fetch(AppSource(repository.url))
    assert "setup.py" in files
    assert not ran.exists()


@pytest.mark.parametrize("url", ["ext::sh -c touch% RAN", "file:///app", "http://127.0.0.1:1/app"])
def test_only_https_ssh_and_git_are_spoken(tmp_path, url):
    found = failure(
        Git(tmp_path / "runs").fetch, AppSource(url.replace("RAN", str(tmp_path / "ran")))
    )
    assert found.code == "run.clone"
    assert "not allowed" in found.message
    assert not (tmp_path / "ran").exists()


def test_a_repository_that_is_too_large_is_given_up_while_it_comes(tmp_path, repository):
    repository.commit({f"{n}.md": os.urandom(1 << 20) for n in range(6)})
    found = failure(git(tmp_path, limit_bytes=1 << 20).fetch, AppSource(repository.url))
    assert (found.code, "larger than 1 MiB" in found.message) == ("run.too_large", True)


def test_an_app_that_is_too_large_once_unpacked_is_not_read(tmp_path, repository):
    repository.commit({"zeros.md": b"\0" * (module.APP_BYTES + 1)})
    found = failure(git(tmp_path).fetch, AppSource(repository.url))
    assert (found.code, "the app in" in found.message) == ("run.too_large", True)


def nested(repository, depth, *, wide=1, leaf="x.py"):
    """Commit trees of trees: each holds the next `wide` times. Some KB, whatever they list."""
    (repository.path / leaf).write_text("1\n")
    entry = f"100644 blob {repository.run('hash-object', '-w', leaf)}\t{leaf}\n"
    for _ in range(depth):
        command = ["git", "mktree"]
        done = subprocess.run(
            command, input=entry.encode(), cwd=repository.path, check=True, capture_output=True
        )
        tree = done.stdout.decode().strip()
        entry = "".join(f"040000 tree {tree}\td{n:02}\n" for n in range(wide))
    commit = repository.run("commit-tree", tree, "-m", "x")
    repository.run("update-ref", "refs/heads/main", commit)


def test_a_small_repository_that_lists_billions_of_files_is_given_up_at_once(tmp_path, repository):
    nested(repository, 9, wide=16)
    begin = time.monotonic()
    found = failure(git(tmp_path, timeout_s=5).fetch, AppSource(repository.url))
    assert (found.code, "has too many files" in found.message) == ("run.too_large", True)
    assert time.monotonic() - begin < 4


def test_directories_that_never_end_are_given_up(tmp_path, repository):
    nested(repository, module.DEPTH + 2)
    found = failure(git(tmp_path).fetch, AppSource(repository.url))
    assert (found.code, "deep" in found.message) == ("run.too_large", True)


def test_a_listing_that_fails_keeps_its_reason(tmp_path, repository):
    program = tmp_path / "git"
    fails = 'test "$1" != ls-tree || { echo "fatal: I/O error" >&2; exit 128; }'
    program.write_text(f'#!/bin/sh\n{fails}\nexec git "$@"\n')
    program.chmod(0o755)
    found = failure(
        git(tmp_path, program=str(program)).fetch, AppSource(repository.url, "main", "mine")
    )
    assert found.code == "run.clone"
    assert found.message.endswith("#mine: fatal: I/O error")


def packed(repository, copies, base_bytes=(16 << 20) - 1):
    """Store a file of zeros and one that is it many times over: a pack of some KB, no more."""
    zeros = bytes(base_bytes)
    size, copy = base_bytes * copies, bytes([0xF0]) + struct.pack("<I", base_bytes)[:3]
    delta = varint(base_bytes) + varint(size) + copy * copies
    names = [sha1(b"blob %d\0" % base_bytes + zeros), sha1(b"blob %d\0" % size)]
    for _ in range(copies):
        names[1].update(zeros)
    rows = zip((b"a.bin", b"b.bin"), names, strict=True)
    tree = b"".join(b"100644 %s\0" % name + blob.digest() for name, blob in rows)
    parts = [
        entry(3, base_bytes) + zlib.compress(zeros),
        entry(7, len(delta)) + names[0].digest() + zlib.compress(delta),
        entry(2, len(tree)) + zlib.compress(tree),
    ]
    made = sha1(b"tree %d\0" % len(tree) + tree).hexdigest()
    pack = b"PACK" + struct.pack(">II", 2, len(parts)) + b"".join(parts)
    path = repository.path / ".git/objects/pack/pack-made.pack"
    path.write_bytes(pack + sha1(pack).digest())
    repository.run("index-pack", str(path))
    repository.run("update-ref", "refs/heads/main", repository.run("commit-tree", made, "-m", "x"))
    return path.stat().st_size


def varint(number):
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def entry(kind, size):
    """Return the head of an object in a pack (gitformat-pack)."""
    rest = varint(size >> 4) if size >> 4 else b""
    return bytes([kind << 4 | size & 15 | (128 if rest else 0)]) + rest


def test_a_pack_that_grows_in_memory_is_given_up_with_gits_reason(tmp_path, repository):
    assert packed(repository, 100) < 20_000
    with host(tmp_path, tmp_path, b"") as (where, _):
        found = failure(over_https(tmp_path).fetch, parse_app_source(f"https://{where}/app/.git"))
    assert found.code == "run.too_large"
    assert "memory" in found.message
    assert "out of memory" in found.message.lower()
    assert list((tmp_path / "runs").iterdir()) == []


def test_git_is_the_first_to_go_where_memory_lacks_and_takes_so_much_at_most(tmp_path, repository):
    program = tmp_path / "git"
    told = tmp_path / "told"
    program.write_text(
        f"#!/bin/sh\ncat /proc/self/oom_score_adj >{told}\nulimit -v >>{told}\nexit 1\n"
    )
    program.chmod(0o755)
    failure(git(tmp_path, program=str(program)).fetch, AppSource(repository.url))
    score, limit = map(int, told.read_text().split())
    assert score == 500
    assert limit * 1024 == runs_git.MEMORY_BYTES


def test_what_git_complains_about_without_end_is_not_kept(tmp_path, repository):
    program = tmp_path / "git"
    program.write_text(
        "#!/bin/sh\nyes complaint | head -c 9000000 >&2\nprintf 'la\\033st\\n' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    found = failure(git(tmp_path, program=str(program)).fetch, AppSource(repository.url))
    assert found.message.endswith("complaint; complaint; last")


def test_a_missing_repository_and_a_missing_ref_are_told_apart(tmp_path, repository):
    asked = git(tmp_path)
    assert failure(asked.fetch, AppSource(f"file://{tmp_path}/none")).code == "run.denied"
    found = failure(asked.fetch, AppSource(repository.url, "gone"))
    assert found.code == "run.no_ref"
    assert "gone" in found.message
    assert failure(asked.fetch, AppSource(repository.url, "1" * 40)).code == "run.no_ref"


def test_a_host_that_cannot_be_reached_may_be_reached_later(tmp_path):
    address = endpoints.closed_port()
    found = failure(Git(tmp_path / "runs").fetch, AppSource(f"https://{address}/app"))
    assert found.code == "run.clone"


def test_a_host_that_never_answers_is_given_up_in_time(tmp_path):
    with endpoints.silent_server() as address:
        begin = time.monotonic()
        found = failure(
            Git(tmp_path / "runs", timeout_s=1).fetch, AppSource(f"git://{address}/app")
        )
    assert (found.code, "in time" in found.message) == ("run.clone", True)
    assert time.monotonic() - begin < 10


def test_a_vm_without_git_is_told_so(tmp_path):
    found = failure(
        Git(tmp_path / "runs", program="/usr/bin/no-git").fetch, AppSource("https://h/a")
    )
    assert found.code == "run.no_git"


def test_a_state_directory_that_cannot_hold_a_credential_is_refused(tmp_path):
    found = failure(Git(tmp_path / "a b;c").fetch, AppSource("https://h/a", login=Secret("u:p")))
    assert found.code == "run.clone"


class Host(http.server.BaseHTTPRequestHandler):
    """A git host: smart HTTP by git's own backend, behind a login."""

    root = ""
    login = b""
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body):
        given = self.headers.get("Authorization", "")
        self.asked.append(given)
        if self.login and given != f"Basic {base64.b64encode(self.login).decode()}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        environment = {
            "GIT_PROJECT_ROOT": self.root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            [BACKEND], input=body, env=environment, capture_output=True, check=False, timeout=60
        )
        head, _, reply = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        """Say nothing on stderr."""


@contextlib.contextmanager
def host(root, folder, login):
    """Serve the repositories below `root`; yield where, and what was asked with which login."""
    leaf = endpoints.loopback_leaf()
    chain = folder / "chain.pem"
    chain.write_text(leaf.pem + leaf.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    made = type("Made", (Host,), {"root": str(root), "login": login, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", made
        finally:
            server.shutdown()
            thread.join()


def over_https(tmp_path, **more):
    ca = tmp_path / "ca.pem"
    ca.write_text(endpoints.authority().pem)
    return Git(tmp_path / "runs", environment={"GIT_SSL_CAINFO": str(ca)}, **more)


def test_git_goes_through_the_proxy_of_the_context_and_back(tmp_path, repository):
    with host(tmp_path, tmp_path, b"") as (where, _), tinyproxy.serving(tmp_path) as proxy:
        source = parse_app_source(f"https://{where}/app/.git@main")
        git = over_https(tmp_path)
        git.through({"https_proxy": proxy.url})
        assert git.fetch(source)[0] == repository.run("rev-parse", "HEAD")
        tunnels = proxy.asked.count(where)
        assert tunnels
        git.through({})
        git.fetch(source)
        assert proxy.asked.count(where) == tunnels


def seen_by_everyone(pattern):
    """Return command lines and environments of all processes that hold `pattern`."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parts = {name: (process / name).read_bytes() for name in ("cmdline", "environ")}
            found += [(process.name, name) for name, data in parts.items() if pattern in data]
    return found


def test_a_private_repository_is_fetched_and_its_password_is_seen_nowhere(tmp_path, repository):
    with host(tmp_path, tmp_path, b"bot:mellon5309") as (where, served):
        asked = over_https(tmp_path)
        stop, found = threading.Event(), []

        def watch():
            while not stop.is_set():
                found.extend(seen_by_everyone(b"mellon5309"))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            commit, files = asked.fetch(
                parse_app_source(f"https://bot:mellon5309@{where}/app/.git@main")
            )
        finally:
            stop.set()
            thread.join()
    assert commit == repository.run("rev-parse", "HEAD")
    assert sorted(files) == sorted(APP)
    assert any(served.asked)
    assert found == []
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("login", ["", "bot:wrong@", "bot@"])
def test_a_login_that_is_missing_or_wrong_is_denied_without_a_word_of_it(
    tmp_path, repository, login
):
    with host(tmp_path, tmp_path, b"bot:mellon5309") as (where, _):
        source = parse_app_source(f"https://{login}{where}/app/.git")
        found = failure(over_https(tmp_path).fetch, source)
    assert found.code == "run.denied"
    assert "wrong" not in found.message


def test_a_host_with_an_unknown_certificate_is_not_believed(tmp_path, repository):
    with host(tmp_path, tmp_path, b"") as (where, _):
        found = failure(Git(tmp_path / "runs").fetch, parse_app_source(f"https://{where}/app/.git"))
    assert found.code == "run.clone"
    assert "certificate" in found.message

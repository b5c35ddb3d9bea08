"""What tests need beside a real Docker Engine: a tiny image, and a socket that can be cut."""

import contextlib
import io
import pathlib
import re
import selectors
import socket
import subprocess
import tarfile
import threading
import time
import uuid

import docker

TEST_LABEL = "org.flower-agent.test"


@contextlib.contextmanager
def client(url):
    """A client of the Engine for what the agent never does."""
    api = docker.APIClient(url, version="auto", timeout=30)
    try:
        yield api
    finally:
        api.close()


def unique(word):
    return f"flower-agent-{word}-{uuid.uuid4().hex[:8]}"


def shell_files():
    """Yield path and file of a shell, ``sleep`` and their libraries, as this machine has them."""
    for program in ("/bin/sh", "/bin/sleep"):
        yield program, program
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
        for library in re.findall(r"(/\S+) \(0x", linked.stdout):
            yield library, library


def archive(files):
    """Return a tar of path → content, a file to copy, or bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in dict(files).items():
            data = content if isinstance(content, bytes) else pathlib.Path(content).read_bytes()
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def load_image(api, reference, files, changes=()):
    """Make an image of one layer; it needs neither a base image nor a registry."""
    repository, _, tag = reference.rpartition(":")
    api.import_image_from_data(archive(files), repository=repository, tag=tag, changes=changes)
    assert api.inspect_image(reference)["Id"]


class Relay:
    """A socket of our own before the Engine's: cut, it looks like a daemon that died."""

    def __init__(self, path, upstream):
        self.path = pathlib.Path(path)
        self._upstream = upstream
        self._listener = None
        self._threads = []
        self._open = set()
        self._lock = threading.Lock()

    @property
    def url(self):
        return f"unix://{self.path}"

    def up(self):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._spawn(self._accept, self._listener)

    def down(self):
        if self._listener is None:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # its other end may be gone
                    connection.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop().join()
        self._listener.close()
        self._listener = None
        self.path.unlink()

    def _spawn(self, call, *args):
        thread = threading.Thread(target=call, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(near)
            self._spawn(self._carry, near)

    def _carry(self, near):
        """Carry bytes both ways until either side ends."""
        far = socket.socket(socket.AF_UNIX)
        try:
            with far, selectors.DefaultSelector() as ready, contextlib.suppress(OSError):
                far.connect(self._upstream)
                ready.register(near, selectors.EVENT_READ, far)
                ready.register(far, selectors.EVENT_READ, near)
                while all(_pass_on(key.fileobj, key.data) for key, _ in ready.select()):
                    pass
        finally:
            with self._lock:
                self._open.discard(near)
                near.close()


def _pass_on(source, sink):
    data = source.recv(65536)
    sink.sendall(data)
    return bool(data)


def until(true, within_s=5.0):
    """Wait for `true`; return whether it came."""
    end = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True

"""A gateway that is switched on and off beside a real SuperLink, which notices neither."""

import contextlib
import socket
import ssl
import threading

import pytest
from watched import started, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.federation, pytest.mark.long]

BASE = 39200
HOST = "127.0.0.1"
HTTP, SETTINGS = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"


class Gateway:
    """Stands for the gateway's process: says at each of its sockets what it must say."""

    def __init__(self, place):
        place.mkdir(parents=True, exist_ok=True)
        self._stop = threading.Event()
        self._threads = []
        for name, words in (("http.sock", HTTP), ("grpc.sock", SETTINGS)):
            (place / name).unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(place / name))
            listener.listen(16)
            listener.settimeout(0.1)
            thread = threading.Thread(target=self._serve, args=(listener, words))
            thread.start()
            self._threads.append(thread)

    def _serve(self, listener, words):
        with contextlib.closing(listener):
            while not self._stop.is_set():
                with contextlib.suppress(OSError):
                    link, _ = listener.accept()
                    with link:
                        link.settimeout(2)
                        link.recv(4096)
                        link.sendall(words)

    def close(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def ask(port):
    """Return the first line of the answer at a port of HAProxy's; empty where nobody listens."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        socket.create_connection((HOST, port), 5) as raw,
        context.wrap_socket(raw) as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return secured.recv(100).partition(b"\r\n")[0].decode()
    return ""


@pytest.mark.parametrize("version", ["1.25.0", "1.42.0"])
def test_on_and_off(lone, version):
    """It comes, answers, falls silent and goes, and no container restarts.

    The name is short: it is in the path of a Unix socket, which has at most 107 bytes.
    """
    port = BASE + 90
    link = (federation := lone(BASE, "gw", scale=0.2, FLOWER_VERSION=version)).superlink

    def fact():
        facts = {row["name"]: row for row in federation.status(link)["facts"]}
        return facts.get("gateway", {}).get("mark")

    def warned():
        return {found["code"] for found in federation.status(link)["warnings"]}

    def told(**more):
        federation.write_context(link, {**link.variables, **more})

    federation.deploy(link)
    federation.wait_ready(link)
    before = started(f"{link.prefix}-flower-superlink")
    proxy = link.root / "run/flower-agent/proxy/haproxy.cfg"
    without = proxy.read_text() if proxy.exists() else None
    assert fact() is None
    assert (without is None) is (version == "1.25.0")

    told(FLOWER_GATEWAY="YES", FLOWER_GATEWAY_ADDRESS=f"{HOST}:{port}")
    wait_for(lambda: "gateway.down" in warned(), "a gateway that is not there", 60)
    assert ask(port).startswith("HTTP/1.1 503")
    with contextlib.closing(Gateway(link.root / "run/flower-gateway")):
        wait_for(lambda: fact() == "ok", "a gateway that answers")
        assert ask(port).startswith("HTTP/1.1 404")
    wait_for(lambda: "gateway.down" in warned(), "a gateway that is gone", 60)
    assert federation.status(link)["state"] == "ready"
    asked = link.root / "run/flower-agent/gateway/agent.sock"
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(str(asked))
        connected.sendall(b'{"ask": "outputs", "run": "1"}\n')
        assert connected.recv(100) == b'{"files": []}\n'

    told()
    wait_for(lambda: not ask(port), "a port that is free again", 30)
    assert not asked.exists()
    assert not (link.root / "run/flower-agent/gateway/gateway.json").exists()
    assert (proxy.read_text() if proxy.exists() else None) == without, "as if there was never one"
    wait_for(lambda: fact() is None and not warned(), "a status without a gateway")
    assert started(f"{link.prefix}-flower-superlink") == before
    assert federation.status(link)["state"] == "ready"

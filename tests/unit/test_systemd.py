"""systemd's notify protocol, on a path and on an abstract socket."""

import contextlib
import socket
import uuid

import pytest

from flower_agent.reporting.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """A listening socket and the address as systemd would give it."""
    address = str(tmp_path / "notify")
    if request.param == "abstract":
        address = f"@flower-agent-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address[0] == "@" else address)
        listener.settimeout(2)
        yield listener, address


def test_ready_watchdog_and_stopping_are_told(systemd):
    listener, address = systemd
    notifier = Notifier(address)
    assert notifier.ready()
    assert notifier.watchdog()
    assert notifier.stopping()
    assert [listener.recv(200) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_status_is_one_line_whatever_is_in_it(systemd):
    listener, address = systemd
    assert Notifier(address).status("starting:\nREADY=1 \N{SNOWMAN} \udc80")
    assert listener.recv(200) == "STATUS=starting: READY=1 \N{SNOWMAN} ?".encode()


def test_without_systemd_nothing_happens():
    notifier = Notifier("")
    assert not notifier.ready()
    assert not notifier.status("x")


def test_a_vanished_socket_never_raises(tmp_path):
    assert not Notifier(str(tmp_path / "gone")).watchdog()
    assert not Notifier("/" + "long" * 100).watchdog()


def test_a_full_socket_is_given_up_on_and_never_raises(systemd):
    _, address = systemd
    notifier = Notifier(address)
    fill("\0" + address[1:] if address[0] == "@" else address)
    assert not notifier.watchdog()


def fill(where):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood:
        flood.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                flood.sendto(b"x", where)

"""A PID means a process only together with its start."""

import os
import signal
import subprocess
import sys

import pytest

from flower_agent import files, process
from flower_agent.agent import operator_requests
from flower_agent.paths import Paths
from flower_agent.process import Process


@pytest.fixture
def child():
    """A process that ends with SIGHUP, also where the tests themselves were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        running = subprocess.Popen(["/bin/sleep", "60"])
    finally:
        signal.signal(signal.SIGHUP, before)
    with running:
        yield running
        running.kill()


def test_a_process_is_known_by_its_start():
    own = process.own()
    assert own.started > 0
    assert process.lives(own)
    assert process.parse(f"{own}\n") == own
    assert not process.lives(Process(own.pid, own.started + 1))


def test_a_process_that_ended_does_not_live_even_before_it_is_waited_for(child):
    found = Process(child.pid, process.started(child.pid))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.lives(found)
    child.wait()
    assert process.started(child.pid) is None


@pytest.mark.parametrize("name", ["sleep", "a b) S 1 (c", ") Z ", "\n"])
def test_a_name_may_hold_anything(tmp_path, name):
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(1, 50))
    (tmp_path / "7" / "stat").write_text(f"7 ({name}) S {fields}")
    assert process.started(7, tmp_path) == 19


def test_a_zombie_is_dead(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(f"7 (x) Z {' 1' * 50}")
    assert process.started(7, tmp_path) is None


@pytest.mark.parametrize("text", ["", "7", "7 8 9", "-7 8", "a b", "7 " + "8" * 30, "[" * 50_000])
def test_anything_else_is_no_process(text):
    assert process.parse(text) is None


def test_a_signal_goes_to_the_very_process(child):
    found = Process(child.pid, process.started(child.pid))
    assert not process.send(Process(found.pid, found.started - 1), signal.SIGHUP)
    assert child.poll() is None
    assert process.send(found, signal.SIGHUP)
    assert child.wait(5) == -signal.SIGHUP
    assert not process.send(found, signal.SIGHUP)


def test_an_order_never_signals_another_process_that_has_the_number_now(tmp_path, child):
    paths = Paths(tmp_path)
    paths.lock.parent.mkdir(parents=True)
    with files.lock(paths.lock):
        for text in (f"{child.pid}\n", f"{child.pid} 1\n", "", "x"):
            paths.lock.write_text(text)
            assert operator_requests.tell(paths)
        assert child.poll() is None
        paths.lock.write_text(f"{child.pid} {process.started(child.pid)}\n")
        assert operator_requests.tell(paths)
        assert child.wait(5) == -signal.SIGHUP
    assert not operator_requests.tell(paths)


def test_only_the_standard_library_is_imported_for_the_status():
    code = (
        "import sys; from flower_agent import cli; cli.main(['--root', '/nowhere', 'status']); "
        "print(sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)"
        " - {'flower_agent', '__main__'}))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    root = os.path.dirname(os.path.dirname(files.__file__))  # noqa: PTH120 - of a file that is there
    command[-1] = f"import sys; sys.path.insert(0, {root!r}); {code}"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done

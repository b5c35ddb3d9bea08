"""Turns of the loop on an Engine in memory: what changes the state of a VM, and what must not."""

import contextlib
import dataclasses
import datetime
import json
import socket
import threading

import pytest
from cycles import attributes_of
from one_vm import SUPEREXEC, SUPERNODE, Vm, computing
from real_engine import until

from flower_agent.config.types import Isolation
from flower_agent.docker.containers import Component, Container
from flower_agent.docker.image_references import Image, dump_lock
from flower_agent.flower import container_spec
from flower_agent.host import gpu
from flower_agent.host.gpu import Answer, Asked, Device, Files, GpuAccess, Offers
from flower_agent.model.errors import (
    AgentError,
    EndpointRefusedError,
    KeyUnknownError,
    PeerLostError,
)
from flower_agent.model.lifecycle import Phase
from flower_agent.model.status import Condition, Mark


@pytest.fixture
def vms(tmp_path):
    """Makes a VM with more variables; one a test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with contextlib.ExitStack() as stack:
        yield lambda **more: stack.enter_context(contextlib.closing(Vm(tmp_path, port, **more)))


@pytest.fixture
def vm(vms):
    return vms()


@pytest.fixture(params=["YES", "AUTO"])
def gpu_vm(request, vms):
    """A VM with a GPU that works, its containers not started yet."""
    vm = vms(GPU_ENABLED=request.param)
    vm.must = request.param == "YES"
    vm.gpu = Files(devices=(Device("0000:01:00.0", "nvidia"),), driver="550.54.14", toolkit=True)
    vm.asked = Asked(Answer(0, "Tesla T4, 15360, [N/A]\n"), Answer(0, ""))
    vm.engine.offered = Offers(runtimes=frozenset({"runc", "nvidia"}))
    vm.engine.programs[gpu.COMMAND] = Answer(0, "Tesla T4, 15096\n")
    for image in vm.images:
        vm.engine.hold(image)
    return vm


def test_everything_that_works_leaves_nothing_unmet(vm):
    vm.boot()
    assert vm.turn() is None
    assert attributes_of(vm.last)["FLOWER_BUSY"] == "0"


def test_a_vm_without_ps_is_ready_though_nobody_can_tell_whether_it_computes(vm):
    def refuse(_):
        raise AgentError("docker.refused", 'exec: "ps": executable file not found in $PATH')

    vm.engine.processes = refuse
    vm.boot()
    assert vm.turn() is None


def test_the_mode_of_a_data_directory_that_is_there_is_the_operators(vm):
    vm.paths.data.mkdir(parents=True)
    vm.paths.data.chmod(0o750)
    vm.boot()
    assert vm.turn() is None
    assert vm.paths.data.stat().st_mode & 0o7777 == 0o750


def test_the_environment_of_apps_is_a_file_that_replaces_their_container_alone(vm):
    vm.boot()
    node, before = vm.engine.kept[SUPERNODE], computing(vm)
    vm.set(FLOWER_ENV_HF_TOKEN="sesame", FLOWER_HTTPS_PROXY="http://proxy:3128")
    vm.settle(lambda _: computing(vm) != before)
    kept = json.loads(vm.paths.app_environment.read_bytes())
    assert (kept["HF_TOKEN"], kept["no_proxy"]) == ("sesame", "127.0.0.1,localhost,::1")
    assert vm.last.report.conditions["environment"].detail == "apps also have HF_TOKEN, HTTPS_PROXY"
    assert "sesame" not in repr(computing(vm))
    assert vm.engine.kept[SUPERNODE] is node
    vm.set(FLOWER_ENV_HF_TOKEN="", FLOWER_HTTPS_PROXY="")
    vm.settle(lambda _: computing(vm) == before)
    assert not vm.paths.app_environment.exists()


def test_an_image_that_the_registry_denies_is_a_failure_and_no_waiting(vm):
    vm.turn()
    assert until(lambda: vm.turn().finding is not None)
    unmet = vm.turn()
    assert unmet.finding.code == "image.denied"
    assert unmet.fatal


SKLEARN = "flower-agent/superexec:1.25.0-sklearn"


@pytest.fixture
def learning(vms):
    """A VM with Flower's own images and none with its framework."""
    vm = vms(ML_FRAMEWORK="sklearn")
    vm.engine.hold(vm.images[0])
    return vm


def test_a_missing_framework_image_is_made_and_the_status_says_how_far_it_is(learning):
    learning.builder.door.clear()
    learning.settle(lambda _: "3 of 6 wheels" in learning.last.report.conditions["image"].detail)
    unmet = learning.turn()
    assert (unmet.phase, unmet.finding) == (Phase.IMAGE, None)
    assert learning.last.report.conditions["image"] == Condition(
        "image", Mark.WAITING, f"builds {SKLEARN}: 3 of 6 wheels"
    )
    assert SUPEREXEC not in learning.engine.kept
    learning.builder.door.set()
    learning.settle(lambda _: SUPEREXEC in learning.engine.kept)
    assert learning.builder.made == [(SKLEARN, "flwr/superexec:1.25.0")]
    assert computing(learning).image == SKLEARN


def test_a_build_that_fails_is_told_and_tried_again_ever_later(learning):
    learning.builder.error = AgentError("image.build", "no index answers", retryable=True)
    learning.settle(lambda unmet: unmet.finding is not None)
    unmet = learning.turn()
    assert (unmet.phase, unmet.finding.code, unmet.fatal) == (Phase.IMAGE, "image.build", False)
    for tries, seconds in ((2, 11), (3, 21), (4, 41)):
        learning.turn()
        assert len(learning.builder.made) == tries - 1
        learning.pass_time(seconds)
        learning.settle(lambda _, tries=tries: len(learning.builder.made) == tries)
        learning.settle(lambda _: not learning.threads.busy())
    learning.builder.error = None
    learning.pass_time(81)
    learning.settle(lambda _: SUPEREXEC in learning.engine.kept)


def test_wheels_that_no_waiting_makes_fit_are_a_failure(learning):
    learning.builder.error = AgentError("image.framework", "no wheels of sklearn for Python 3.10")
    learning.settle(lambda unmet: unmet.finding is not None)
    assert learning.turn().fatal


def test_a_framework_image_that_is_there_is_not_made_again(learning):
    learning.engine.hold(SKLEARN)
    learning.settle(lambda _: SUPEREXEC in learning.engine.kept)
    assert learning.builder.made == []


def test_a_framework_image_other_than_the_pinned_one_is_not_used(learning):
    lock = learning.paths.images_lock
    lock.parent.mkdir(parents=True)
    lock.write_bytes(dump_lock({SKLEARN: "sha256:" + "a" * 64}))
    learning.engine.hold(SKLEARN)
    learning.settle(lambda _: learning.builder.made)
    assert SUPEREXEC not in learning.engine.kept


def test_containers_are_made_of_what_bake_pinned(learning):
    lock, made_of = learning.paths.images_lock, "sha256:" + "a" * 64
    lock.parent.mkdir(parents=True)
    lock.write_bytes(dump_lock({SKLEARN: made_of}))
    learning.engine.local[SKLEARN] = Image("sha256:" + "b" * 64, (), made_of=made_of)
    learning.settle(lambda _: SUPEREXEC in learning.engine.kept)
    assert learning.engine.kept[SUPEREXEC].shown.image == "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("mode", "device", "name"),
    [
        ("NO", True, "pytorch"),
        ("AUTO", False, "pytorch"),
        ("AUTO", True, "pytorch-cuda"),
    ],
)
def test_a_vm_with_a_gpu_to_use_gets_the_cuda_variant(vms, mode, device, name):
    vm = vms(ML_FRAMEWORK="pytorch", GPU_ENABLED=mode)
    vm.gpu = Files(devices=(Device("0000:01:00.0", "nvidia"),) if device else ())
    vm.settle(lambda _: vm.builder.made)
    assert vm.builder.made[0][0] == f"flower-agent/superexec:1.25.0-{name}"


def test_a_cpu_that_numpy_ends_on_is_a_warning_and_no_failure(vm):
    vm.cpu_flags = frozenset({"sse2", "cx16", "lahf_lm", "pni"})
    vm.boot()
    assert vm.turn() is None
    assert [str(found.code) for found in vm.last.report.warnings] == ["cpu.old"]


def test_a_superexec_that_lets_go_is_noticed(vm):
    vm.boot()
    assert vm.turn() is None
    vm.close()  # the connection, and the AppIo's port
    vm.pass_time(29)
    assert vm.turn() is None  # it is not looked at in each turn
    vm.pass_time(2)
    vm.turn()
    assert vm.last.report.conditions["superexec"].mark is Mark.WAITING
    vm.pass_time(30)
    assert vm.turn().finding.code == "superexec.detached"
    vm.attach()
    assert vm.turn() is None


def test_a_superexec_has_its_time_once_what_it_attaches_to_is_back(vm):
    vm.boot()
    assert vm.turn() is None
    vm.close()
    vm.pass_time(100)  # turned away and tried again, say
    vm.engine.end(SUPERNODE)
    vm.settle(lambda unmet: unmet is None)
    vm.pass_time(59)
    assert vm.turn() is None
    vm.pass_time(2)
    assert vm.turn().finding.code == "superexec.detached"


def test_a_superexec_that_started_again_attaches_anew(vm):
    vm.boot()
    assert vm.turn() is None
    vm.close()
    vm.engine.end(SUPEREXEC)
    vm.settle(lambda _: vm.last.report.conditions["superexec"].mark is Mark.WAITING)


def test_a_young_container_may_take_its_time(vm):
    vm.controller.error = AgentError("peer.waiting", "not yet", retryable=True)
    vm.boot()
    vm.turn()
    vm.pass_time(-50)
    unmet = vm.turn()
    assert (unmet.phase, unmet.finding) == (Phase.PEER, None)


def test_a_clock_that_was_set_back_makes_no_container_young_for_hours(vm):
    vm.boot()
    vm.controller.error = AgentError("peer.waiting", "lost", retryable=True)
    vm.now -= datetime.timedelta(hours=5)
    assert vm.turn().finding.code == "peer.waiting"


def test_a_port_that_somebody_else_has_is_named_before_anything_starts(vm):
    for image in vm.images:
        vm.engine.hold(image)
    vm.attach()
    assert vm.turn().finding.code == "port.taken"
    assert vm.engine.calls == []


def test_a_port_that_an_own_container_gives_back_keeps_nothing_from_changing(vm):
    for image in vm.images:
        vm.engine.hold(image)
    vm.engine.create(
        Container(
            name="flower-superlink", part=Component.SUPERLINK, image=vm.images[0], command=()
        ),
        vm.images[0],
    )
    vm.engine.start("flower-superlink")
    vm.attach()
    vm.turn()
    assert "remove flower-superlink" in vm.engine.calls


def test_a_container_is_not_judged_in_the_turn_that_starts_it_again(vm):
    for image in vm.images:
        vm.engine.hold(image)
    vm.turn()
    vm.controller.error = AgentError("peer.waiting", "what its last start said", retryable=True)
    vm.engine.end(SUPERNODE)
    unmet = vm.turn()
    assert (unmet.phase, unmet.finding) == (Phase.HEALTH, None)
    assert vm.engine.calls[-1] == f"start {SUPERNODE}"


def test_a_container_that_loads_is_awaited_at_its_health_port_until_it_works(vm):
    for image in vm.images:
        vm.engine.hold(image)
    health = container_spec.health(vm.settings, Component.SUPERNODE)
    vm.controller.error = EndpointRefusedError("endpoint.refused", "it loads", retryable=True)
    vm.turn()
    assert vm.last.opening == health
    vm.turn()
    assert vm.last.opening == health
    vm.controller.error = None
    vm.turn()
    assert vm.last.opening is None


def test_a_container_that_hangs_after_its_end_is_stopped_and_its_next_start_has_time(vm):
    for image in vm.images:
        vm.engine.hold(image)
    vm.turn()
    vm.controller.error, vm.controller.hung = (
        PeerLostError("peer.lost", "it gave up", retryable=True),
        True,
    )
    vm.turn()
    vm.pass_time(19)
    vm.engine.end(SUPERNODE)
    vm.turn()
    vm.pass_time(19)
    vm.turn()
    assert f"stop {SUPERNODE}" not in vm.engine.calls
    vm.pass_time(21)
    vm.turn()
    assert vm.engine.calls[-1] == f"stop {SUPERNODE}"


# GPU


def test_a_gpu_goes_to_the_container_that_computes_and_is_seen_from_inside(gpu_vm):
    gpu_vm.boot()
    gpu_vm.settle(lambda unmet: unmet is None)
    assert computing(gpu_vm).gpu is GpuAccess.TOOLKIT
    assert gpu_vm.engine.kept[SUPERNODE].spec.gpu is GpuAccess.NONE
    shown = "1 NVIDIA GPU: Tesla T4 15360 MiB; driver 550.54.14"
    assert attributes_of(gpu_vm.last)["FLOWER_GPU"] == shown
    assert gpu_vm.last.report.conditions["gpu"] == Condition("gpu", Mark.OK, shown)
    assert gpu_vm.last.report.warnings == []


def test_cdi_is_used_where_docker_discovered_the_gpu(gpu_vm):
    gpu_vm.engine.offered = Offers(cdi=frozenset({"nvidia.com/gpu=all"}))
    gpu_vm.boot()
    gpu_vm.settle(lambda unmet: unmet is None)
    assert computing(gpu_vm).gpu is GpuAccess.CDI


def test_no_container_is_made_before_nvidia_smi_has_answered(gpu_vm):
    answered = threading.Event()
    ask = gpu_vm.stages._gpu_setup
    ask._ask = lambda: answered.wait(5) and gpu_vm.asked
    unmet = gpu_vm.turn()
    assert (unmet.phase, unmet.finding) == (Phase.DOCKER, None)
    assert gpu_vm.engine.calls == []
    answered.set()
    gpu_vm.settle(lambda _: SUPEREXEC in gpu_vm.engine.kept)


def test_a_gpu_that_is_not_usable_fails_the_vm_only_where_it_must_be(gpu_vm):
    gpu_vm.gpu = dataclasses.replace(gpu_vm.gpu, driver=None)
    if gpu_vm.must:
        gpu_vm.settle(lambda unmet: unmet.finding)
        unmet = gpu_vm.turn()
        assert (unmet.finding.code, unmet.fatal) == ("gpu.no_driver", True)
        assert gpu_vm.engine.calls == []
        assert gpu_vm.last.report.conditions["gpu"].mark is Mark.BAD
        return
    gpu_vm.boot()
    assert gpu_vm.turn() is None
    assert computing(gpu_vm).gpu is GpuAccess.NONE
    assert [w.code for w in gpu_vm.last.report.warnings] == ["gpu.no_driver"]
    assert gpu_vm.last.report.conditions["gpu"].mark is Mark.OFF


def test_a_vm_without_a_gpu_says_so_and_with_auto_has_nothing_to_warn_of(gpu_vm):
    gpu_vm.gpu = Files()
    finding = gpu_vm.turn().finding
    assert (finding.code if finding else None) == ("gpu.none" if gpu_vm.must else None)
    assert attributes_of(gpu_vm.last)["FLOWER_GPU"] == "no NVIDIA GPU"
    assert gpu_vm.last.report.warnings == []


def test_a_toolkit_that_is_configured_later_is_noticed(gpu_vm):
    offered, gpu_vm.engine.offered = gpu_vm.engine.offered, Offers()
    gpu_vm.settle(lambda _: gpu_vm.last.report.conditions["gpu"].mark is not Mark.WAITING)
    assert "Docker has neither the runtime nvidia" in gpu_vm.last.report.conditions["gpu"].detail
    gpu_vm.engine.offered = offered
    gpu_vm.pass_time(21)
    gpu_vm.settle(lambda _: SUPEREXEC in gpu_vm.engine.kept and computing(gpu_vm).gpu)


def test_docker_is_not_asked_each_turn_what_it_offers(gpu_vm):
    gpu_vm.engine.offered = Offers()
    gpu_vm.settle(lambda _: gpu_vm.last.report.conditions["gpu"].mark is not Mark.WAITING)
    asked, offers = [], gpu_vm.engine.offers
    gpu_vm.engine.offers = lambda: asked.append(1) or offers()
    for _ in range(19):
        gpu_vm.turn()
        gpu_vm.pass_time(1)
    assert asked == []


@pytest.mark.parametrize("change", ["driver", "cdi"])
def test_a_container_that_computes_keeps_the_gpu_as_it_got_it(gpu_vm, change):
    gpu_vm.boot()
    gpu_vm.settle(lambda unmet: unmet is None)
    before = gpu_vm.engine.kept[SUPEREXEC].shown
    gpu_vm.reboot()
    if change == "driver":
        gpu_vm.gpu = dataclasses.replace(gpu_vm.gpu, library="550.90.07")
        gpu_vm.asked = Asked(Answer(18, "Driver/library version mismatch\n"), Answer(18, ""))
    else:
        gpu_vm.engine.offered = Offers(cdi=frozenset({"nvidia.com/gpu=all"}))
    gpu_vm.settle(lambda _: gpu_vm.last.report.conditions["gpu"].mark is not Mark.WAITING)
    unmet = gpu_vm.turn()
    assert gpu_vm.engine.kept[SUPEREXEC].shown == before
    seen = [unmet.finding] if unmet and unmet.finding else gpu_vm.last.report.warnings
    assert [found.code for found in seen] == (["gpu.mismatch"] if change == "driver" else [])
    if gpu_vm.must or change == "cdi":
        return
    gpu_vm.engine.end(SUPEREXEC)
    gpu_vm.settle(lambda _: computing(gpu_vm).gpu is GpuAccess.NONE)


def test_a_start_that_docker_refuses_for_the_gpu_goes_without_where_it_may(gpu_vm):
    gpu_vm.boot()
    gpu_vm.settle(lambda unmet: unmet is None)
    words = (
        "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch"
    )
    gpu_vm.engine._no_gpu = lambda spec: words if spec.gpu else ""
    gpu_vm.engine.end(SUPEREXEC)
    gpu_vm.settle(lambda unmet: unmet and unmet.finding)
    gpu_vm.pass_time(30)
    if gpu_vm.must:
        assert gpu_vm.turn().finding.code == "gpu.mismatch"
        return
    gpu_vm.settle(lambda unmet: unmet is None)
    assert computing(gpu_vm).gpu is GpuAccess.NONE
    assert [w.code for w in gpu_vm.last.report.warnings] == ["gpu.mismatch"]


def test_a_gpu_that_cuda_does_not_see_inside_is_told(gpu_vm):
    gpu_vm.engine.programs[gpu.COMMAND] = Answer(1, "cuInit: CUDA error 999\n")
    gpu_vm.boot()
    gpu_vm.settle(lambda unmet: unmet is None or unmet.finding is not None)
    unmet = gpu_vm.turn()
    seen = unmet.finding if gpu_vm.must else gpu_vm.last.report.warnings[0]
    assert seen.code == "gpu.not_in_container"
    assert "nvidia-uvm" in seen.message
    assert "docker restart flower-superexec" in seen.hint
    assert (unmet is None) is not gpu_vm.must
    assert attributes_of(gpu_vm.last)["FLOWER_GPU"] == seen.message


def test_a_gpu_that_is_lost_while_running_is_noticed_and_its_return_too(gpu_vm):
    gpu_vm.boot()
    gpu_vm.settle(lambda unmet: unmet is None)
    works = gpu_vm.engine.programs[gpu.COMMAND]
    gpu_vm.engine.programs[gpu.COMMAND] = Answer(1, "cuInit: CUDA error 100\n")
    gpu_vm.pass_time(601)
    gpu_vm.settle(lambda _: "reaches no GPU" in gpu_vm.last.report.conditions["gpu"].detail)
    gpu_vm.engine.programs[gpu.COMMAND] = works
    gpu_vm.pass_time(21)
    gpu_vm.settle(
        lambda unmet: unmet is None and gpu_vm.last.report.conditions["gpu"].mark is Mark.OK
    )


# Another Flower version


def versions(vm):
    """Return the Flower version of each container."""
    return {kept.spec.image.partition(":")[2].partition("-")[0] for kept in vm.engine.kept.values()}


def test_a_supernode_keeps_its_version_until_its_superlink_has_the_new_one(vm):
    vm.search.published = "1.25.0"
    vm.boot()
    assert vm.turn() is None
    vm.set(FLOWER_VERSION="1.34.0")
    for image in vm.images:
        vm.engine.hold(image)
    assert vm.turn() is None
    assert versions(vm) == {"1.25.0"}
    assert vm.last.report.version == "1.25.0"
    assert [w.code for w in vm.last.report.warnings] == ["version.follows"]
    vm.search.published = "1.34.0"
    vm.turn()
    assert versions(vm) == {"1.34.0"}
    assert vm.last.report.version == "1.25.0"
    assert vm.turn() is None
    assert vm.turn() is None
    assert (vm.last.report.version, vm.last.report.warnings) == ("1.34.0", [])


def test_a_waiting_supernode_asks_for_its_superlink_every_half_minute(vm):
    vm.search.published = "1.25.0"
    vm.boot()
    vm.turn()
    vm.set(FLOWER_VERSION="1.34.0")
    vm.turn()
    vm.pass_time(29)
    vm.turn()
    assert vm.search.asked == 1
    vm.pass_time(2)
    vm.turn()
    assert vm.search.asked == 2


# Enrolment


REFUSED = 'details = "No SuperNode found with the given public key."'


@pytest.fixture
def lone(vm):
    """A SuperNode whose apps run in its own container."""
    vm.settings = dataclasses.replace(vm.settings, isolation=Isolation.SUBPROCESS)
    for image in vm.images:
        vm.engine.hold(image)
    vm.turn()
    vm.pass_time(60)
    return vm


def runs(lone):
    return next(c.running for c in lone.engine.containers() if c.name == SUPERNODE)


def turn_away(lone):
    """Let the container run, be turned away, and end, as Flower does."""
    lone.controller.error = AgentError(
        "peer.waiting", "no connection is established", retryable=True
    )
    lone.engine.say(SUPERNODE, REFUSED)
    lone.engine.end(SUPERNODE, 1)


def test_a_node_that_is_turned_away_stays_in_phase_enrol_and_is_no_failure(lone):
    lone.controller.awaited = "the SuperLink does not know the key X"
    seen = set()
    for _ in range(60):
        if runs(lone):
            turn_away(lone)
        unmet = lone.turn()
        seen.add((unmet.phase, unmet.finding.code, unmet.finding.message))
        lone.pass_time(1)
    assert seen == {(Phase.ENROL, "enrol.waiting", "the SuperLink does not know the key X")}
    starts = [call for call in lone.engine.calls if call == f"start {SUPERNODE}"]
    assert 60 / 16 < len(starts) - 1 <= 60 / 5 + 1
    assert lone.reconciler.failures(SUPERNODE) == 0


def test_a_node_that_is_let_in_at_last_waits_no_more(lone):
    turn_away(lone)
    assert lone.turn().phase is Phase.ENROL
    lone.pass_time(16)
    lone.turn()
    assert lone.last.wait.error.finding.code == "enrol.waiting"
    lone.controller.error = None
    lone.pass_time(1)
    assert lone.turn() is None
    lone.turn()
    assert lone.last.wait is None


def test_a_node_that_lives_on_after_it_was_turned_away_is_stopped_soon(lone):
    lone.controller.error = KeyUnknownError("enrol.waiting", "turned away", retryable=True)
    lone.controller.hung = True
    assert lone.turn().phase is Phase.ENROL
    assert runs(lone)
    lone.pass_time(3)
    assert lone.turn().phase is Phase.ENROL
    assert not runs(lone)
    assert lone.turn().phase is Phase.ENROL
    assert not runs(lone)
    lone.pass_time(16)
    lone.turn()
    assert runs(lone)
    assert lone.reconciler.failures(SUPERNODE) == 0


def test_another_trouble_is_said_though_the_node_waits_to_be_let_in(lone):
    turn_away(lone)
    lone.turn()
    lone.pass_time(16)
    lone.turn()
    lone.controller.error = AgentError("peer.clock", "refused", retryable=True)
    lone.pass_time(21)
    assert lone.turn().finding.code == "peer.clock"

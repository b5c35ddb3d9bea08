"""Which image an app gets on a VM, whatever is away, late or refused.

Git, pip and the Engine are small doubles here; test_bake and the federations have the real ones.
"""

import contextlib
import dataclasses
import itertools

import pytest
from app_repository import PYPROJECT, Repository
from cycles import attributes_of, seeing
from inline import Inline
from one_vm import SUPEREXEC, SUPERNODE, Vm

from flower_agent.agent.image_resolver import ImageResolver
from flower_agent.config.types import Role
from flower_agent.cycle import Report
from flower_agent.docker import image_references
from flower_agent.images import app_images
from flower_agent.images.builder import BackgroundBuilder
from flower_agent.model.errors import AgentError, CloneError
from flower_agent.model.lifecycle import Phase
from flower_agent.model.state import AppNeeds, State
from flower_agent.model.status import Mark
from flower_agent.reconcile.restart_policy import LONGEST_DELAY_S
from flower_agent.runs.app_image import FIRST_LINES, IDLE_S, AppImageResolver

URL = "https://bot:hunter2@git.example.org/app@main"
NAME = "https://git.example.org/app@main"
NEEDS = ("tabulate>=0.9",)
DECLARES = PYPROJECT.replace(
    b'version = "1.0"', b'version = "1.0"\ndependencies = ["tabulate>=0.9"]'
)


class Oven:
    """Makes an app's image in the Engine in memory; `error` is how it fails."""

    def __init__(self, engine):
        self._engine = engine
        self.error, self.made, self.has, self.says = None, [], (), ""

    def lacking(self, _, dependencies):
        return tuple(need for need in dependencies if need not in self.has)

    def ensure_app(self, parent, dependencies, *, progress, warn=None, **_):
        progress("2 of 3 wheels")
        if self.says:
            warn(self.says)
        if self.error:
            raise self.error
        self.made.append((parent, *dependencies))
        reference = app_images.image(parent, dependencies)
        self._engine.hold(reference)
        made_of = app_images.made_of(
            image_references.pin(parent, self._engine.image(parent)), dependencies
        )
        self._engine.local[reference] = dataclasses.replace(
            self._engine.local[reference], made_of=made_of
        )


class AppVm(Vm):
    """A SuperNode's VM whose context names an app."""

    def __init__(self, root, appio_port, **more):
        self.repository = Repository()
        self.repository.files = {"pyproject.toml": DECLARES}
        super().__init__(root, appio_port, CUSTOM_APP_REPO=URL, **more)
        for image in self.images:
            self.engine.hold(image)

    def reboot(self):
        super().reboot()
        self.app_oven = Oven(self.engine)
        self.apps = AppImageResolver(
            self.engine, Inline(), self.repository, self.app_oven, self.app_oven
        )
        background_builder = BackgroundBuilder(self.builder, self.threads)
        self.stages._image_resolver = ImageResolver(  # the Vm's own has no apps
            self.paths.images_lock, self.reconciler, background_builder, self.apps
        )

    @property
    def parent(self):
        return self.images[-1]

    @property
    def image(self):
        return app_images.image(self.parent, NEEDS)

    def used(self, name=SUPEREXEC):
        """Return by which image a container was made."""
        return self.engine.kept[name].spec.image

    def fact(self):
        return self.last.report.conditions["app"]

    def told(self):
        return attributes_of(self.last)["FLOWER_APP_IMAGE"]

    def warned(self):
        return {found.code: found for found in self.last.report.warnings}

    def look(self):
        """Turn as the daemon does, until what is under way has ended."""
        for _ in range(6):
            self.turn()


@pytest.fixture
def vm(tmp_path):
    with contextlib.closing(AppVm(tmp_path, 23180)) as made:
        yield made


def away():
    return CloneError("run.clone", "it does not answer", retryable=True)


def test_a_first_boot_waits_for_what_the_app_needs_and_then_uses_it(vm):
    unmet = vm.turn()
    assert unmet.phase is Phase.IMAGE
    assert vm.engine.kept == {}
    vm.look()
    assert (vm.used(), vm.last.app_lacks) == (vm.image, False)
    assert vm.engine.kept[SUPEREXEC].shown.image == vm.engine.image(vm.image).image_id
    assert vm.used(SUPERNODE) == vm.images[0]
    assert vm.fact().mark is Mark.OK
    assert vm.repository.commit[:10] in vm.fact().detail
    assert "hunter2" not in str((vm.record, vm.last.report.conditions))


def test_a_node_tells_the_service_which_image_runs_apps_and_what_it_lacks(vm):
    vm.app_oven.error = AgentError("image.build", "no such wheel", retryable=True)
    vm.look()
    digest, lacking = app_images.read_published(vm.told())
    assert (len(digest), lacking) == (71, ("tabulate",))
    vm.app_oven.error = None
    vm.pass_time(LONGEST_DELAY_S)
    vm.look()
    assert app_images.read_published(vm.told()) == (vm.engine.image(vm.image).made_of, ())
    vm.set(CUSTOM_APP_REPO="")
    vm.look()
    assert vm.told() == digest


def test_the_superlink_tells_nobody_which_image_runs_apps(vm):
    vm.look()
    settings = dataclasses.replace(vm.last.seen.settings, role=Role.SUPERLINK)
    link = dataclasses.replace(seeing(vm.last, settings=settings), report=Report())
    vm.apps.choose(link, {}, {}, None, None)
    assert attributes_of(link) == {}


def test_subprocess_isolation_has_it_in_the_supernode_itself(vm):
    vm.set(FLOWER_ISOLATION="subprocess")
    vm.look()
    assert vm.used(SUPERNODE) == app_images.image(vm.images[0], NEEDS)
    assert SUPEREXEC not in vm.engine.kept


def test_an_image_without_the_cpu_builds_that_were_wanted_is_a_warning_while_it_is_used(vm):
    vm.app_oven.says = "the index gave no CPU build of torch==2.8.0"
    vm.look()
    assert vm.used() == vm.image
    vm.turn()
    assert vm.warned()["image.cpu_builds"].message == vm.app_oven.says
    assert vm.warned()["image.cpu_builds"].hint


def test_an_app_that_needs_nothing_more_makes_no_image(vm):
    vm.app_oven.has = NEEDS
    vm.look()
    assert (vm.used(), vm.app_oven.made, vm.last.app_lacks) == (vm.parent, [], False)
    assert vm.fact().mark is Mark.OK


def test_without_its_git_server_a_vm_starts_says_so_and_tries_again(vm):
    vm.repository.trouble = away()
    vm.look()
    assert (vm.used(), vm.last.app_lacks) == (vm.parent, True)
    assert vm.warned()["run.clone"].message.startswith("it does not answer; apps run in the image")
    assert vm.fact().mark is Mark.BAD
    vm.repository.trouble = None
    vm.pass_time(LONGEST_DELAY_S)
    before = vm.engine.kept[SUPERNODE].shown.container_id
    vm.look()
    assert vm.used() == vm.image
    assert vm.engine.kept[SUPERNODE].shown.container_id == before


def test_a_server_that_is_away_is_asked_ever_more_seldom(vm):
    vm.repository.trouble = away()
    asked = []
    vm.repository.fetch = lambda _: asked.append(vm.monotonic) or vm.repository.resolve(_)
    for _ in range(240):
        vm.turn()
        vm.pass_time(5)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert pauses[0] <= 15
    assert pauses[-1] >= LONGEST_DELAY_S
    assert len(asked) < 12


def test_an_image_that_cannot_be_made_is_a_warning_and_what_runs_is_kept(vm):
    vm.look()
    kept = vm.engine.kept[SUPEREXEC].shown.container_id
    vm.app_oven.error = AgentError("image.build", "no such wheel", retryable=True)
    vm.repository.files = {"pyproject.toml": DECLARES.replace(b"tabulate", b"nowhere")}
    vm.set(CUSTOM_APP_REPO=f"{URL}2")
    vm.look()
    assert vm.engine.kept[SUPEREXEC].shown.container_id == kept
    assert "no such wheel" in vm.warned()["image.build"].message
    assert vm.warned()["image.build"].hint
    assert vm.last.app_lacks


def test_what_an_app_may_not_want_is_refused(vm):
    vm.repository.files = {"pyproject.toml": DECLARES.replace(b">=0.9", b" @ https://a/b.whl")}
    vm.look()
    assert "no address" in vm.warned()["image.framework"].message
    assert vm.used() == vm.parent


def test_a_repository_without_an_app_is_told(vm):
    vm.repository.files = {}
    vm.look()
    assert "run.no_app" in vm.warned()
    assert vm.used() == vm.parent


def test_another_image_waits_until_no_app_computes(vm):
    vm.repository.trouble = away()
    vm.look()
    vm.repository.trouble = None
    vm.pass_time(LONGEST_DELAY_S)
    processes = vm.engine.processes
    vm.engine.processes = lambda _: ("python flwr-clientapp --token x",)
    vm.engine.kept[SUPEREXEC].said.append((vm.now, "INFO : Start `flwr-clientapp` process\n"))
    for _ in range(10):
        vm.pass_time(IDLE_S)
        vm.look()
    assert (vm.used(), vm.last.app_lacks) == (vm.parent, True)
    assert vm.fact().detail == "its image is there; it waits until no app computes"
    vm.engine.processes = lambda _: (*processes(_), "[flwr-clientapp] <defunct>")
    vm.look()
    assert vm.used() == vm.parent  # rounds have pauses
    vm.pass_time(IDLE_S)
    vm.look()
    assert vm.used() == vm.image


def late(vm):
    """Let the image be there only when a container without it runs."""
    vm.repository.trouble = away()
    vm.look()
    vm.repository.trouble = None
    vm.pass_time(LONGEST_DELAY_S)


def test_a_container_in_which_no_app_ever_ran_is_replaced_at_once(vm):
    late(vm)
    vm.look()
    assert vm.used() == vm.image
    assert "waits" not in vm.fact().detail


@pytest.mark.parametrize(
    "said", ["INFO : Start `flwr-clientapp` process\n", "INFO : anything\n" * FIRST_LINES]
)
def test_a_container_in_which_an_app_may_have_run_is_left_for_a_minute(vm, said):
    late(vm)
    vm.engine.kept[SUPEREXEC].said.extend((vm.now, f"{line}\n") for line in said.splitlines())
    vm.look()
    assert vm.used() == vm.parent
    vm.pass_time(IDLE_S)
    vm.look()
    assert vm.used() == vm.image


def test_where_processes_cannot_be_listed_it_takes_a_minute(vm):
    late(vm)

    def refuse(_):
        raise AgentError("docker.refused", "no ps", retryable=True)

    vm.engine.processes = refuse
    vm.look()
    assert vm.used() == vm.parent
    vm.pass_time(IDLE_S)
    vm.look()
    assert vm.used() == vm.image


def test_a_reboot_asks_no_git_server_and_makes_nothing(vm):
    vm.look()
    kept = vm.engine.kept[SUPEREXEC].shown.container_id
    vm.repository.trouble = away()
    vm.reboot()
    vm.repository.commit = "b" * 40
    vm.look()
    assert vm.engine.kept[SUPEREXEC].shown.container_id == kept
    assert (vm.app_oven.made, vm.warned()) == ([], {})
    assert "a" * 10 in vm.fact().detail


def test_another_framework_goes_from_image_to_image_and_not_by_the_one_without(vm):
    vm.look()
    before = vm.image
    vm.set(ML_FRAMEWORK="sklearn")
    vm.engine.hold(vm.parent)
    seen = set()
    for _ in range(6):
        vm.turn()
        seen.add(vm.used())
    assert (vm.used(), seen) == (vm.image, {before, vm.image})


def test_an_image_that_is_gone_is_made_again_and_harms_nothing_that_runs(vm):
    vm.look()
    kept = vm.engine.kept[SUPEREXEC].shown.container_id
    vm.engine.forget_image(vm.image)
    vm.look()
    assert vm.engine.kept[SUPEREXEC].shown.container_id == kept
    assert len(vm.app_oven.made) == 2


def test_a_baked_app_wants_no_network(vm):
    baked = AppNeeds(NAME, "c" * 40, "me/mine 1.0", NEEDS)
    vm.paths.images_lock.parent.mkdir(parents=True)
    vm.paths.images_lock.write_bytes(image_references.dump_lock({}, {NAME: baked}))
    vm.app_oven.ensure_app(vm.parent, NEEDS, progress=lambda _: None)
    vm.app_oven.error = vm.repository.trouble = away()
    vm.look()
    assert vm.used() == vm.image
    assert "c" * 10 in vm.fact().detail


def test_without_an_app_in_the_context_the_image_of_the_role_is_back_at_once(vm):
    vm.look()
    vm.set(CUSTOM_APP_REPO="")
    vm.look()
    assert (vm.used(), vm.last.app_lacks) == (vm.parent, False)
    assert (vm.record.app, vm.record.app_image) == (None, None)


def test_plan_touches_nothing(vm):
    vm.turn()
    turn, fetched = seeing(vm.last, dry=True), len(vm.repository.fetched)
    vm.reboot()
    vm.record = turn.state = State()
    assert vm.apps.choose(turn, {}, {}, None, None).pending
    assert (len(vm.repository.fetched), turn.state) == (fetched, State())

"""From the containers that should be and those that are to the steps between."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent.docker.containers import (
    CPU_SHARES,
    CPU_SHARES_STARTING,
    Component,
    Container,
    Existing,
    Mount,
)
from flower_agent.reconcile.plan import Action, foreign, plan

MAIN = Container(
    name="flower-supernode", part=Component.SUPERNODE, image="flwr/a:1", command=("--x",)
)
APPS = Container(
    name="flower-superexec",
    part=Component.SUPEREXEC,
    image="flwr/b:1",
    command=("--y",),
    mounts=(Mount("/ca.crt", "/ca.crt", digest="aa"),),
    yields_cpu=True,
)
WANT = (MAIN, APPS)


def existing(want, **differences):
    """Return `want` as Docker has it when all is well, save for `differences`."""
    found = Existing(
        name=want.name,
        container_id=f"id of {want.name}",
        mine=True,
        fingerprint=want.fingerprint,
        image=want.image,
        cpu_shares=CPU_SHARES,
    )
    return dataclasses.replace(found, **differences)


def steps(want, *have, **how):
    return [str(step) for step in plan(want, have, **how)]


def test_an_agent_that_knows_a_field_more_replaces_no_container():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Newer(Container):
        learnt: tuple[str, ...] = ()

    fields = {field.name: getattr(APPS, field.name) for field in dataclasses.fields(APPS)}
    assert Newer(**fields).fingerprint == APPS.fingerprint
    assert Newer(**fields, learnt=("x",)).fingerprint != APPS.fingerprint


# Each transition of one container


def test_an_absent_container_is_created_and_started():
    assert steps((MAIN,)) == [
        "create flower-supernode (absent)",
        "start flower-supernode (absent)",
    ]


def test_a_running_container_as_wanted_is_left_alone():
    assert steps((MAIN,), existing(MAIN)) == []


def test_a_created_container_is_started():
    have = existing(MAIN, status="created", exit_code=0)
    assert steps((MAIN,), have) == ["start flower-supernode (created, not started)"]


@pytest.mark.parametrize("code", [0, 1, 137])
def test_an_ended_container_is_started_whatever_its_exit_code(code):
    have = existing(MAIN, status="exited", exit_code=code)
    assert steps((MAIN,), have) == [f"start flower-supernode (exited {code})"]


def test_a_container_that_ran_out_of_memory_says_so():
    have = existing(APPS, status="exited", exit_code=137, oom_killed=True)
    assert steps((APPS,), have) == ["start flower-superexec (out of memory)"]


def test_a_container_with_other_settings_is_replaced():
    assert steps((MAIN,), existing(MAIN, fingerprint="old")) == [
        "stop flower-supernode (settings changed)",
        "remove flower-supernode (settings changed)",
        "create flower-supernode (settings changed)",
        "start flower-supernode (settings changed)",
    ]


def test_a_changed_certificate_replaces_the_container():
    renewed = dataclasses.replace(APPS, mounts=(Mount("/ca.crt", "/ca.crt", digest="bb"),))
    actions = [step.action for step in plan((renewed,), (existing(APPS),))]
    assert actions == [Action.STOP, Action.REMOVE, Action.CREATE, Action.START]


def test_an_ended_container_with_other_settings_is_not_stopped_first():
    have = existing(MAIN, fingerprint="old", status="exited")
    assert steps((MAIN,), have)[0] == "remove flower-supernode (settings changed)"


def test_a_container_that_docker_could_not_end_is_made_anew():
    assert steps((MAIN,), existing(MAIN, status="dead")) == [
        "remove flower-supernode (dead)",
        "create flower-supernode (dead)",
        "start flower-supernode (dead)",
    ]


def test_a_container_that_somebody_removes_is_waited_for():
    assert steps((MAIN,), existing(MAIN, status="removing")) == []
    assert steps((), existing(MAIN, status="removing")) == []


def test_a_paused_container_lives_and_is_left_to_who_paused_it():
    assert steps((MAIN,), existing(MAIN, status="paused")) == []


def test_a_paused_container_with_other_settings_is_stopped_and_replaced():
    have = existing(MAIN, status="paused", fingerprint="old")
    assert steps((MAIN,), have)[0] == "stop flower-supernode (settings changed)"


def test_a_container_that_docker_restarts_by_itself_is_stopped_before_it_is_removed():
    have = existing(MAIN, status="restarting", fingerprint="old")
    assert steps((MAIN,), have)[0] == "stop flower-supernode (settings changed)"


def test_a_resting_container_is_not_started():
    have = existing(MAIN, status="exited", exit_code=1)
    assert steps((MAIN,), have, resting={MAIN.name}) == []


def test_changed_settings_do_not_wait_for_a_rest():
    have = existing(MAIN, status="exited", exit_code=1, fingerprint="old")
    assert steps((MAIN,), have, resting={MAIN.name})[-1] == (
        "start flower-supernode (settings changed)"
    )


def test_an_unwanted_container_is_stopped_and_removed():
    assert steps((), existing(MAIN)) == [
        "stop flower-supernode (not wanted)",
        "remove flower-supernode (not wanted)",
    ]


def test_the_step_that_creates_carries_what_to_create():
    create, start = plan((MAIN,), ())
    assert (create.container, start.container) == (MAIN, None)


# The CPU share of a container that yields while the first one starts


def test_a_yielding_container_gets_its_full_share_once_the_first_answers():
    have = (existing(MAIN), existing(APPS, cpu_shares=CPU_SHARES_STARTING))
    assert steps(WANT, *have) == []
    assert steps(WANT, *have, settled=True) == ["update flower-superexec (full CPU share)"]


@pytest.mark.parametrize(
    "differences", [{"cpu_shares": CPU_SHARES}, {"cpu_shares": 0}, {"status": "exited"}]
)
def test_a_full_share_is_given_once_and_only_to_what_runs(differences):
    have = existing(APPS, **{"cpu_shares": CPU_SHARES_STARTING} | differences)
    assert "update" not in " ".join(steps(WANT, existing(MAIN), have, settled=True))


def test_a_container_about_to_be_replaced_gets_no_share_first():
    have = existing(APPS, cpu_shares=CPU_SHARES_STARTING, fingerprint="old")
    actions = [step.action for step in plan((APPS,), (have,), settled=True)]
    assert actions == [Action.STOP, Action.REMOVE, Action.CREATE, Action.START]


# Order


def test_the_first_container_comes_first():
    assert [step.name for step in plan(WANT, ())] == [MAIN.name] * 2 + [APPS.name] * 2


def test_removal_goes_backwards_and_before_anything_is_made():
    old = [existing(MAIN, name=f"flower-{number}", status="exited") for number in (1, 2)]
    assert steps((MAIN,), *old) == [
        "remove flower-2 (not wanted)",
        "remove flower-1 (not wanted)",
        "create flower-supernode (absent)",
        "start flower-supernode (absent)",
    ]


# Other people's containers


def test_a_container_without_the_label_is_never_touched():
    assert steps((), existing(MAIN, mine=False)) == []


def test_a_name_that_somebody_else_has_is_told_and_not_fought_for():
    other = existing(MAIN, mine=False)
    assert foreign(WANT, (other,)) == (other,)
    assert {step.name for step in plan(WANT, (other,))} == {APPS.name}


def test_a_foreign_container_with_another_name_is_nobodys_business():
    assert foreign(WANT, (existing(MAIN, name="postgres", mine=False), existing(APPS))) == ()


# Properties, on a Docker of a few lines


class Docker:
    """What Docker's calls do, and which of them it refuses."""

    def __init__(self, have):
        self.have = {container.name: container for container in have}

    def apply(self, step):
        found = self.have.get(step.name)
        match step.action:
            case Action.CREATE:
                assert found is None, f"409: the name {step.name} is in use"
                share = CPU_SHARES_STARTING if step.container.yields_cpu else CPU_SHARES
                self.have[step.name] = existing(step.container, status="created", cpu_shares=share)
                return
            case _:
                assert found is not None, f"404: no container {step.name}"
        match step.action:
            case Action.START:
                assert found.status in ("created", "exited", "restarting"), found.status
                self._change(step.name, status="running")
            case Action.STOP:
                self._change(step.name, status="exited")
            case Action.REMOVE:
                assert found.status not in ("running", "paused", "restarting"), found.status
                del self.have[step.name]
            case Action.UPDATE:
                self._change(step.name, cpu_shares=CPU_SHARES)
            case _:
                raise AssertionError(f"unhandled call: {step}")

    def _change(self, name, **differences):
        self.have[name] = dataclasses.replace(self.have[name], **differences)

    def containers(self):
        return tuple(self.have.values())


few = effort(max_examples=40, deadline=None)
NAMES = ("flower-superlink", "flower-supernode", "flower-superexec", "postgres")
wanted = st.lists(
    st.builds(
        Container,
        name=st.sampled_from(NAMES[:3]),
        part=st.sampled_from(Component),
        image=st.sampled_from(["flwr/a:1", "flwr/a:2"]),
        command=st.just(()),
        yields_cpu=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda container: container.name,
).map(tuple)
STATUSES = ("created", "running", "paused", "restarting", "exited", "dead")


@st.composite
def worlds(draw, *, others=True):
    """Draw what is wanted and what Docker has."""
    want = draw(wanted)
    by_name = {container.name: container for container in want}
    have = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        as_wanted = name in by_name and draw(st.booleans())
        have.append(
            Existing(
                name=name,
                container_id=f"id of {name}",
                mine=draw(st.booleans()) if others else True,
                fingerprint=by_name[name].fingerprint if as_wanted else "old",
                status=draw(st.sampled_from(STATUSES)),
                exit_code=draw(st.sampled_from([None, 0, 1])),
                cpu_shares=draw(st.sampled_from([0, CPU_SHARES, CPU_SHARES_STARTING])),
            )
        )
    return want, tuple(have)


@few
@given(worlds(others=False), st.booleans(), st.booleans())
def test_an_applied_plan_leaves_an_empty_one(world, settled_now, settled_later):
    want, have = world
    docker = Docker(have)
    for step in plan(want, have, settled=settled_now):
        docker.apply(step)
    left = plan(want, docker.containers(), settled=settled_later)
    assert {step.action for step in left} <= ({Action.UPDATE} if settled_later else set())
    for step in left:
        docker.apply(step)
    assert plan(want, docker.containers(), settled=settled_later) == ()


@few
@given(worlds(), st.lists(st.integers(0, 6), max_size=4))
def test_from_any_snapshot_and_any_cut_the_wanted_state_is_reached(world, cuts):
    want, have = world
    docker = Docker(have)
    for cut in (*cuts, None):
        for step in plan(want, docker.containers())[:cut]:
            docker.apply(step)
    taken = {container.name for container in foreign(want, have)}
    mine = {name: found for name, found in docker.have.items() if found.mine}
    assert set(mine) == {container.name for container in want} - taken
    for container in want:
        if container.name not in taken:
            assert mine[container.name].fingerprint == container.fingerprint
            assert mine[container.name].running
    assert [c for c in docker.containers() if not c.mine] == [c for c in have if not c.mine]


@few
@given(worlds(), st.sets(st.sampled_from(NAMES)), st.booleans())
def test_the_same_input_gives_the_same_plan(world, resting, settled):
    want, have = world
    first = plan(want, have, resting=resting, settled=settled)
    assert plan(want, have, resting=resting, settled=settled) == first


@few
@given(worlds(), st.sets(st.sampled_from(NAMES)), st.booleans())
def test_a_container_that_is_not_the_agents_is_in_no_step(world, resting, settled):
    want, have = world
    named = {step.name for step in plan(want, have, resting=resting, settled=settled)}
    assert not named & {container.name for container in have if not container.mine}


@few
@given(worlds(others=False), st.sets(st.sampled_from(NAMES)))
def test_a_rest_only_ever_holds_back_a_start(world, resting):
    want, have = world
    all_steps, held = plan(want, have), plan(want, have, resting=resting)
    missing = [step for step in all_steps if step not in held]
    assert [step for step in all_steps if step not in missing] == list(held)
    assert {step.action for step in missing} <= {Action.CREATE, Action.START}
    assert {step.name for step in missing} <= resting

"""Local accounts, roles and what each may call."""

import stat

import pytest

from flower_agent.config.account_roles import AccountRole
from flower_agent.gateway import accounts as module
from flower_agent.gateway import control_methods, limits
from flower_agent.gateway.accounts import Accounts
from flower_agent.gateway.control_methods import Caller
from flower_agent.gateway.database import Database
from flower_agent.gateway.run_owners import INTENT_S, RunOwners, StartedRun
from flower_agent.model.errors import AgentError

VIEWER, SUBMITTER, ADMIN = AccountRole
ALICE = Caller("alice", SUBMITTER, 1)


@pytest.fixture
def database(tmp_path):
    made = Database(tmp_path / "gateway.sqlite")
    yield made
    made.close()


@pytest.fixture
def accounts(database):
    return Accounts(database)


def test_a_password_is_checked_against_its_hash(accounts):
    accounts.add("alice", VIEWER, "correct horse battery")
    hashed = accounts.password_hash("alice")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert module.verify("correct horse battery", hashed)
    assert not module.verify("correct horse batterz", hashed)


@pytest.mark.parametrize("password", ["", "x", "correct horse battery"])
def test_nobody_gets_in_as_an_account_that_is_not_there(accounts, password):
    assert accounts.password_hash("nobody") == module.DEAD_HASH
    assert not module.verify(password, module.DEAD_HASH)


def test_a_disabled_account_comes_back_with_a_new_password(accounts):
    accounts.add("alice", VIEWER, "correct horse battery")
    accounts.disable("alice")
    assert accounts.list()[0].disabled
    assert accounts.password_hash("alice") == module.DEAD_HASH
    accounts.set_password("alice", "another password")
    assert module.verify("another password", accounts.password_hash("alice"))


@pytest.mark.parametrize("name", ["", "Alice", "a b", "-a", "a" * 65, "a\n", "ä", "a;drop"])
def test_a_name_is_plain(accounts, name):
    with pytest.raises(AgentError) as caught:
        accounts.add(name, VIEWER, "correct horse battery")
    assert caught.value.finding.code == "account.invalid"
    assert accounts.list() == ()


@pytest.mark.parametrize("password", ["short", "x" * 257])
def test_a_password_has_a_length(accounts, password):
    with pytest.raises(AgentError, match=r"account\.invalid"):
        accounts.add("alice", VIEWER, password)
    assert accounts.list() == ()


def test_an_account_is_added_once(accounts):
    accounts.add("alice", VIEWER, "correct horse battery")
    with pytest.raises(AgentError, match=r"account\.exists"):
        accounts.add("alice", ADMIN, "another password")
    assert accounts.list()[0].role is VIEWER


@pytest.mark.parametrize("change", ["disable", "remove"])
def test_what_is_not_there_cannot_be_changed(accounts, change):
    with pytest.raises(AgentError, match=r"account\.missing"):
        getattr(accounts, change)("nobody")


def test_a_made_password_is_long_and_new():
    made = {module.made_password() for _ in range(50)}
    assert len(made) == 50
    assert all(len(password) == 23 for password in made)


def test_a_file_that_is_no_database_has_its_error(tmp_path):
    (tmp_path / "gateway.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(AgentError, match=r"gateway\.database"):
        Database(tmp_path / "gateway.sqlite")


def test_a_link_in_the_place_of_the_database_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").touch()
    (tmp_path / "gateway.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AgentError, match=r"gateway\.database"):
        Database(tmp_path / "gateway.sqlite")
    assert stat.S_ISREG((tmp_path / "elsewhere").stat().st_mode)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("ListRuns", VIEWER), ("ListNodes", VIEWER), ("StreamLogs", VIEWER),
        ("StreamRunEvents", VIEWER), ("StartRun", SUBMITTER), ("StopRun", SUBMITTER),
        ("PullArtifacts", SUBMITTER), ("RegisterNode", ADMIN), ("UnregisterNode", ADMIN),
    ],
)  # fmt: skip
def test_a_method_has_its_least_role(name, least):
    method = control_methods.BY_NAME[name]
    for role in AccountRole:
        words = control_methods.refusal(method, Caller("alice", role, 1), "alice")
        assert (words is None) is role.may(least)
        assert words is None or (name in words and "alice" in words)


@pytest.mark.parametrize("name", ["StopRun", "PullArtifacts"])
@pytest.mark.parametrize("owner", ["bob", None])
def test_a_run_of_somebody_else_is_for_an_admin(name, owner):
    method = control_methods.BY_NAME[name]
    assert control_methods.refusal(method, ALICE, owner)
    assert control_methods.refusal(method, Caller("root", ADMIN, 2), owner) is None
    assert control_methods.refusal(method, ALICE, "alice") is None


def test_the_paths_are_those_of_flower():
    assert control_methods.BY_PATH["/v1/control/get-login-details"].name == "GetLoginDetails"
    assert control_methods.BY_PATH["/v1/control/stream-run-events"].name == "StreamRunEvents"
    assert len(control_methods.BY_PATH) == len(control_methods.METHODS)


@pytest.mark.parametrize(
    "name", ["CreateInvitation", "StartAutomation", "BeginConnectorOAuth", "ArchiveFederation"]
)
def test_methods_beyond_the_job_are_not_offered(name):
    assert name not in control_methods.BY_NAME


def test_the_owner_of_a_run_is_kept(database):
    owners = RunOwners(database, lambda: 100.0)
    intent = owners.intend("alice", "f" * 64)
    owners.started(intent, "alice", "17")
    assert owners.owner("17") == "alice"
    assert owners.owner("18") is None
    assert owners.open_intents() == ()


def test_a_run_whose_answer_was_lost_finds_its_owner(database):
    now = [1000.0]
    owners = RunOwners(database, lambda: now[0])
    owners.intend("alice", "a" * 64)
    owners.intend("bob", "a" * 64)
    owners.reconcile(
        [
            StartedRun("1", "a" * 64, 500.0),  # from before
            StartedRun("5", "a" * 64, 999.5),  # of somebody else, shortly before
            StartedRun("2", "b" * 64, 1001.0),  # of another app
            StartedRun("4", "a" * 64, 1002.0),
            StartedRun("3", "a" * 64, 1001.0),
        ]
    )
    assert [owners.owner(run) for run in "12345"] == [None, None, "alice", "bob", None]
    assert owners.open_intents() == ()


def test_an_intent_that_nothing_came_of_is_forgotten_in_the_end(database):
    now = [1000.0]
    owners = RunOwners(database, lambda: now[0])
    owners.intend("alice", "a" * 64)
    owners.reconcile([])
    assert len(owners.open_intents()) == 1
    now[0] += INTENT_S + 1
    owners.reconcile([])
    assert owners.open_intents() == ()


@pytest.mark.parametrize(
    ("origin", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.3"),
    ],
)
def test_tries_are_counted_for_an_address_or_a_network_of_ipv6(origin, same, other):
    tries = limits.Attempts(limits.Limit(2, 10.0), lambda: 0.0)
    tries.count(origin)
    assert not tries.spent(same)
    tries.count(same)
    assert tries.spent(origin)
    assert not tries.spent(other)
    tries.clear(same)
    assert not tries.spent(origin)


def test_tries_pass_and_are_bounded():
    now = [0.0]
    tries = limits.Attempts(limits.Limit(1, 10.0), lambda: now[0])
    tries.count("a")
    now[0] = 11.0
    assert not tries.spent("a")
    for number in range(limits.KEYS_MAX + 5):
        tries.count(str(number))
    assert not tries.spent("0")
    assert tries.spent(str(limits.KEYS_MAX + 4))

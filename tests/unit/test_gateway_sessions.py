"""Log-ins and tokens of the gateway: what they are worth, and for how long."""

import pytest

from flower_agent.config.account_roles import AccountRole
from flower_agent.gateway import sessions as module
from flower_agent.gateway.accounts import Accounts
from flower_agent.gateway.database import Database
from flower_agent.gateway.sessions import Sessions

PASSWORD = "correct horse battery"


class Clock:
    def __init__(self):
        self.time = 1_800_000_000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(tmp_path):
    made = Database(tmp_path / "gateway.sqlite")
    Accounts(made).add("alice", AccountRole.SUBMITTER, PASSWORD)
    yield made
    made.close()


@pytest.fixture
def sessions(database, clock):
    return Sessions(database, clock)


def browser_of(sessions):
    return sessions.browser(sessions.open_browser("alice", None, "192.0.2.1"))


def logged_in(sessions):
    grant = sessions.ask("192.0.2.1")
    assert sessions.approve(grant.code, browser_of(sessions))
    return sessions.collect(grant.device_code)


def test_a_login_waits_until_it_is_approved_and_gives_its_tokens_once(sessions):
    grant = sessions.ask("192.0.2.1")
    assert sessions.waiting(grant.code) == "192.0.2.1"
    assert sessions.collect(grant.device_code) is None
    assert sessions.approve(grant.code.lower(), browser_of(sessions))
    assert sessions.waiting(grant.code) is None
    pair = sessions.collect(grant.device_code)
    assert sessions.caller(pair.access).account == "alice"
    assert sessions.collect(grant.device_code) is None
    assert not sessions.approve(grant.code, browser_of(sessions))


def test_a_login_that_nobody_approves_ends(sessions, clock):
    grant = sessions.ask("192.0.2.1")
    clock.time += module.GRANT_S + 1
    assert sessions.waiting(grant.code) is None
    assert not sessions.approve(grant.code, browser_of(sessions))
    assert sessions.collect(grant.device_code) is None


def test_waiting_logins_are_bounded_and_ended_ones_make_room(sessions, clock, monkeypatch):
    monkeypatch.setattr(module, "GRANTS_MAX", 2)
    assert sessions.ask("a")
    assert sessions.ask("b")
    assert sessions.ask("c") is None
    clock.time += module.GRANT_S + 1
    assert sessions.ask("c")


def test_an_access_token_lives_for_minutes_and_is_refreshed(sessions, clock):
    first = logged_in(sessions)
    clock.time += module.ACCESS_S + 1
    assert sessions.caller(first.access) is None
    second = sessions.refresh(first.refresh)
    assert sessions.caller(second.access).account == "alice"
    assert {second.access, second.refresh}.isdisjoint({first.access, first.refresh})


def test_a_refresh_token_is_no_access_token_nor_the_other_way_round(sessions):
    pair = logged_in(sessions)
    assert sessions.caller(pair.refresh) is None
    assert sessions.refresh(pair.access) is None
    assert sessions.browser(pair.access) is None


def test_two_calls_at_once_may_both_refresh(sessions, clock):
    first = logged_in(sessions)
    one = sessions.refresh(first.refresh)
    clock.time += module.GRACE_S - 1
    other = sessions.refresh(first.refresh)
    assert sessions.caller(one.access)
    assert sessions.caller(other.access)


def test_a_refresh_token_that_comes_again_later_ends_the_login(sessions, clock):
    first = logged_in(sessions)
    second = sessions.refresh(first.refresh)
    clock.time += module.GRACE_S + 1
    assert sessions.refresh(first.refresh) is None
    assert sessions.caller(second.access) is None
    assert sessions.refresh(second.refresh) is None


def test_a_login_ends_however_often_it_is_refreshed(sessions, clock):
    pair = logged_in(sessions)
    while clock.time < 1_800_000_000 + module.SESSION_S:
        clock.time += module.REFRESH_S - 10
        following = sessions.refresh(pair.refresh)
        pair = following or pair
    assert following is None
    assert sessions.caller(pair.access) is None


@pytest.mark.parametrize("change", ["disable", "remove", "set_password"])
def test_tokens_end_with_their_account(sessions, database, change):
    pair = logged_in(sessions)
    cookie = sessions.open_browser("alice", None, "192.0.2.1")
    download = sessions.open_download("7", sessions.caller(pair.access))
    more = ["another password"] if change == "set_password" else []
    getattr(Accounts(database), change)("alice", *more)
    assert sessions.caller(pair.access) is None
    assert sessions.refresh(pair.refresh) is None
    assert sessions.browser(cookie) is None
    assert sessions.download(download) is None


def test_a_log_out_ends_every_login_of_an_account_of_a_provider_too(sessions, database):
    cookies = [sessions.open_browser("bob@example.org", AccountRole.VIEWER, "x") for _ in range(2)]
    kept = logged_in(sessions)
    assert Accounts(database).log_out("bob@example.org") == 2
    assert [sessions.browser(cookie) for cookie in cookies] == [None, None]
    assert sessions.caller(kept.access)


def test_tokens_survive_a_restart_and_none_stands_in_the_file(sessions, tmp_path, clock):
    pair = logged_in(sessions)
    grant = sessions.ask("192.0.2.9")
    again = Database(tmp_path / "gateway.sqlite")
    assert Sessions(again, clock).caller(pair.access).account == "alice"
    again.close()
    stored = (tmp_path / "gateway.sqlite").read_bytes()
    for secret in (pair.access, pair.refresh, grant.device_code, PASSWORD):
        assert secret.encode() not in stored
    assert (tmp_path / "gateway.sqlite").stat().st_mode & 0o777 == 0o600


def test_the_role_of_another_provider_stays_with_the_login(sessions):
    grant = sessions.ask("192.0.2.1")
    cookie = sessions.open_browser("bob@example.org", AccountRole.VIEWER, "192.0.2.1")
    sessions.approve(grant.code, sessions.browser(cookie))
    pair = sessions.collect(grant.device_code)
    assert sessions.caller(pair.access).role is AccountRole.VIEWER


def test_a_download_works_for_a_while(sessions, clock):
    pair = logged_in(sessions)
    secret = sessions.open_download("7", sessions.caller(pair.access))
    assert sessions.download(secret).run_id == "7"
    assert sessions.download(secret + "x") is None
    clock.time += module.DOWNLOAD_S + 1
    assert sessions.download(secret) is None


def test_what_ended_is_forgotten(sessions, database, clock):
    logged_in(sessions)
    sessions.ask("192.0.2.1")
    sessions.open_browser("alice", None, "192.0.2.1")
    clock.time += module.SESSION_S + 1
    sessions.forget_ended()
    for table in ("sessions", "tokens", "grants", "downloads"):
        assert database.rows(f"SELECT * FROM {table}") == []  # noqa: S608

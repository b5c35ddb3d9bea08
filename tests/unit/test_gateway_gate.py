"""The gateway's decisions about calls and streams, without a transport."""

import asyncio

import pytest

from flower_agent.config.account_roles import AccountRole
from flower_agent.flower import wire
from flower_agent.gateway import gate as module
from flower_agent.gateway import limits
from flower_agent.gateway.control_methods import BY_NAME
from flower_agent.gateway.database import Database
from flower_agent.gateway.gate import Gate, Refused, UpstreamRefused, Why

PASSWORD = "correct horse battery"


@pytest.fixture
def events():
    return []


@pytest.fixture
def gate(tmp_path, events):
    database = Database(tmp_path / "gateway.sqlite")
    made = Gate(database, "https://federation.example:9443", events.append)
    made.accounts.add("alice", AccountRole.SUBMITTER, PASSWORD)
    yield made
    database.close()


def caller(gate):
    grant = gate.sessions.ask("192.0.2.1")
    gate.sessions.approve(
        grant.code, gate.sessions.browser(gate.sessions.open_browser("alice", None, "x"))
    )
    return gate.sessions.caller(gate.sessions.collect(grant.device_code).access)


class Upstream:
    """Answers as it is told, and remembers."""

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    async def call(self, method, body):
        self.asked.append((method.name, body))
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def start(gate, who, upstream, body=b""):
    return asyncio.run(gate.answer(BY_NAME["StartRun"], who, body, "192.0.2.1", upstream))


def test_a_run_that_was_started_has_its_owner(gate, events):
    start(gate, caller(gate), Upstream(wire.encode((1, 7))))
    assert gate.owners.owner("7") == "alice"
    assert (events[-1].event, events[-1].run_id) == ("gateway.start_run", "7")


@pytest.mark.parametrize("reply", [b"", UpstreamRefused("no")])
def test_a_run_that_was_refused_leaves_nothing(gate, reply):
    try:
        start(gate, caller(gate), Upstream(reply))
    except UpstreamRefused:
        assert isinstance(reply, UpstreamRefused)
    assert gate.owners.open_intents() == ()
    assert gate.owners.owner("0") is None


def test_a_run_without_an_answer_keeps_its_intent(gate):
    with pytest.raises(TimeoutError):
        start(gate, caller(gate), Upstream(TimeoutError()))
    assert [intent.account for intent in gate.owners.open_intents()] == ["alice"]


def test_a_client_that_hangs_up_does_not_undo_its_run(gate):
    class Slow(Upstream):
        async def call(self, method, body):
            await asyncio.sleep(0.05)
            return await super().call(method, body)

    async def hang_up():
        who, upstream = caller(gate), Slow(wire.encode((1, 7)))
        call = asyncio.ensure_future(
            gate.answer(BY_NAME["StartRun"], who, b"", "192.0.2.1", upstream)
        )
        await asyncio.sleep(0)
        call.cancel()
        while gate.owners.owner("7") is None:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(hang_up(), 30))
    assert gate.owners.owner("7") == "alice"


def test_an_open_stream_ends_with_its_login(gate, monkeypatch):
    monkeypatch.setattr(module, "STREAM_LOOK_S", 0.01)
    closed = []

    async def silent():
        try:
            yield b"first"
            await asyncio.sleep(3600)
        finally:
            closed.append(True)

    async def follow():
        who = caller(gate)
        seen = []
        try:
            async for frame in gate.watched(who, silent()):
                seen.append(frame)
                gate.sessions.end(who.session)
        except Refused as refused:
            return seen, refused
        raise AssertionError("the stream ended by itself")

    seen, refusal = asyncio.run(asyncio.wait_for(follow(), 30))
    assert seen == [b"first"]
    assert refusal.why is Why.UNAUTHENTICATED
    assert closed


def test_a_stream_ends_as_the_superlink_ends_it(gate):
    async def two():
        yield b"1"
        yield b"2"

    async def follow():
        return [frame async for frame in gate.watched(caller(gate), two())]

    assert asyncio.run(follow()) == [b"1", b"2"]


def test_sign_ins_at_once_are_bounded(gate, monkeypatch):
    monkeypatch.setattr(module, "PASSWORDS_WAITING", 2)

    async def together():
        tries = [gate.sign_in("alice", "wrong password", f"192.0.2.{n}") for n in range(5)]
        return await asyncio.gather(*tries, return_exceptions=True)

    seen = asyncio.run(together())
    assert seen.count(None) == 2
    assert sum(isinstance(answer, Refused) and answer.why is Why.BUSY for answer in seen) == 3


def test_a_password_that_changed_meanwhile_lets_nobody_in(gate, monkeypatch):
    reads = iter([gate.accounts.password_hash("alice"), "another"])
    monkeypatch.setattr(gate.accounts, "password_hash", lambda _: next(reads))
    assert asyncio.run(gate.sign_in("alice", PASSWORD, "192.0.2.1")) is None


def test_logins_of_one_address_are_bounded(gate):
    for _ in range(limits.LOGINS.tries):
        gate.login(BY_NAME["GetLoginDetails"], b"", "192.0.2.1")
    with pytest.raises(Refused) as caught:
        gate.login(BY_NAME["GetLoginDetails"], b"", "192.0.2.1")
    assert caught.value.why is Why.BUSY
    gate.login(BY_NAME["GetLoginDetails"], b"", "192.0.2.2")


def test_what_is_refused_is_recorded(gate, events):
    who = caller(gate)
    with pytest.raises(Refused):
        gate.admit(BY_NAME["StopRun"], who, wire.encode((1, 9)), "192.0.2.1")
    with pytest.raises(Refused):
        gate.admit(BY_NAME["RegisterNode"], who, b"", "192.0.2.1")
    gate.unknown_method("Nonsense\x1b[31m", "192.0.2.1")
    assert [(event.event, event.result) for event in events] == [
        ("gateway.stop_run", "refused"),
        ("gateway.register_node", "refused"),
        ("gateway.unknown_method", "refused"),
    ]
    assert "\x1b" not in events[-1].message


def test_a_client_that_polls_is_not_taken_for_one_that_guesses(gate):
    poll, guess = BY_NAME["GetAuthTokens"], wire.encode((1, "guessed"))
    details = wire.decode(gate.login(BY_NAME["GetLoginDetails"], b"", "192.0.2.1"))
    mine = wire.encode((1, details.text(2)))
    for _ in range(limits.REFUSED_TOKENS.tries + 1):
        assert gate.login(poll, mine, "192.0.2.1") == b""
    for _ in range(limits.REFUSED_TOKENS.tries):
        assert gate.login(poll, guess, "192.0.2.2") == b""
    with pytest.raises(Refused):
        gate.login(poll, guess, "192.0.2.2")

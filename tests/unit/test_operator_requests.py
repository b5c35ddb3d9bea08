"""What commands ask of the daemon: each order is carried out, also one that comes meanwhile."""

import dataclasses
import os

import pytest

from flower_agent.agent.operator_requests import RequestFiles, Requests

OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def box(tmp_path):
    return RequestFiles(tmp_path / "state/orders")


def test_nothing_is_asked_for_where_there_is_no_directory(box):
    assert box.read() == Requests()


def test_what_was_done_is_asked_for_no_more(box):
    box.ask_renew()
    box.ask_trust(OLD)
    found = box.read()
    assert (found.renew, found.trust) == (True, OLD)
    box.done(found)
    assert box.read() == Requests()


def test_only_what_was_carried_out_is_taken_away(box):
    box.ask_renew()
    box.ask_trust(OLD)
    box.done(dataclasses.replace(box.read(), renew=False))
    found = box.read()
    assert (found.renew, found.trust) == (True, None)


def test_an_order_that_comes_while_another_is_carried_out_stays(box):
    box.ask_renew()
    box.ask_trust(OLD)
    found = box.read()
    box.ask_renew()
    box.ask_trust(NEW)
    box.done(found)
    later = box.read()
    assert (later.renew, later.trust) == (True, NEW)


def test_the_ca_that_was_asked_for_last_counts(box, tmp_path):
    for age_s, fingerprint in ((20, OLD), (10, NEW)):
        before = set((tmp_path / "state/orders").glob("*"))
        box.ask_trust(fingerprint)
        (path,) = set((tmp_path / "state/orders").glob("*")) - before
        at = path.stat().st_mtime - age_s
        os.utime(path, (at, at))
    found = box.read()
    assert found.trust == NEW
    box.done(found)
    assert box.read() == Requests()


def test_an_order_of_an_older_agent_is_carried_out(box, tmp_path):
    place = tmp_path / "state/orders"
    place.mkdir(parents=True)
    (place / "trust").write_text(OLD)
    (place / "renew").touch()
    found = box.read()
    assert (found.renew, found.trust) == (True, OLD)
    box.done(found)
    assert not any(place.iterdir())


def test_what_is_no_fingerprint_asks_for_nothing(box, tmp_path):
    place = tmp_path / "state/orders"
    place.mkdir(parents=True)
    (place / "trust").write_text("x" * 64)
    (place / "trust-1").write_bytes(b"\xff" * 10_000)
    assert box.read().trust is None

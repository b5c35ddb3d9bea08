"""What a container's end and its log mean. The logs were printed by live runs of Flower."""

import pathlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.flower import exit_codes
from flower_agent.flower.exit_codes import Refusal
from flower_agent.model import foreign_text
from flower_agent.model.error_codes import CATALOGUE

LOGS = pathlib.Path(__file__).parents[1] / "data" / "flower" / "logs"
ALL_LOGS = sorted(LOGS.glob("*.log"))
ALL_LINES = sorted({line for log in ALL_LOGS for line in log.read_text("utf-8").splitlines()})


def log(name):
    return (LOGS / f"{name}.log").read_text(encoding="utf-8")


def peer(name):
    return exit_codes.node_connection(log(name).splitlines())


def explained(code, name):
    found = exit_codes.explain(code, False, log(name))
    return found.error, found.meaning


def after(name, *lines):
    return exit_codes.node_connection([*log(name).splitlines(), *lines])


RETRY = "WARNING :   Connection attempt failed, retrying in 3.14 seconds"
BACK = "INFO :      Connection successful after 8.26 seconds and 4 tries."


@pytest.mark.parametrize("version", ["1.25.0", "1.42.0"])
def test_a_node_that_printed_its_id_is_connected(version):
    found = peer(f"{version}-node-connected")
    assert (found.connected, found.detail, found.refusal, found.failed) == (True, "", None, False)
    assert found.node_id in log(f"{version}-node-connected")


def test_a_node_that_has_printed_nothing_yet_is_not_connected():
    assert exit_codes.node_connection(
        ["INFO :      Starting Flower SuperNode"]
    ) == exit_codes.NodeConnection(None, False, "")


def test_a_node_that_retries_is_not_connected_and_keeps_its_id():
    found = after("1.25.0-node-connected", RETRY)
    assert (found.connected, found.detail) == (False, RETRY.split(":   ")[1])
    assert found.node_id == peer("1.25.0-node-connected").node_id


def test_a_node_that_came_back_is_connected():
    assert after("1.25.0-node-connected", RETRY, RETRY, BACK).connected


def test_a_node_that_gave_up_is_not_connected():
    line = "WARNING :   Giving up reconnection after 10.69 seconds and 6 tries."
    assert not after("1.25.0-node-connected", RETRY, line).connected


def test_a_node_that_reached_the_superlink_but_has_no_id_yet_is_not_connected():
    assert not exit_codes.node_connection([RETRY, BACK]).connected


def test_an_error_of_an_app_does_not_disconnect_a_node():
    line = '\tdetails = "Start time or end time for message ID is missing"'
    assert after("1.25.0-node-connected", line).connected


@pytest.mark.parametrize("version", ["1.25.0", "1.30.0", "1.36.0", "1.42.0"])
def test_a_refused_clock_is_seen_even_where_flower_does_not_say_so(version):
    assert peer(f"{version}-node-clock").clock_refused


def test_a_node_stopped_while_it_retried_is_not_called_a_refused_clock():
    lines = [RETRY, "INFO :      SuperNode terminated gracefully."]
    assert exit_codes.node_connection(lines).refusal is None


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("1.23.0-node-forgotten", Refusal.FORGOTTEN),
        ("1.25.0-node-forgotten", Refusal.FORGOTTEN),
        ("1.30.0-node-forgotten", Refusal.FORGOTTEN),
        ("1.42.0-node-forgotten", Refusal.FORGOTTEN),
        ("1.25.0-node-unregistered", Refusal.UNREGISTERED),
        ("1.36.0-node-unregistered", Refusal.UNREGISTERED),
        ("1.39.0-node-unregistered", Refusal.UNREGISTERED),
        ("1.30.0-node-ghost", Refusal.GHOST),
        ("1.25.0-node-without-key", Refusal.NO_KEY),
        ("1.42.0-node-without-key", Refusal.NO_KEY),
        ("1.25.0-node-wrong-ca", None),
        ("1.42.0-node-wrong-ca-debug", None),
    ],
)
def test_a_node_that_was_turned_away_says_why(name, refusal):
    assert peer(name).refusal is refusal
    assert not peer(name).connected


def test_a_refusal_is_over_once_the_node_is_connected():
    found = after("1.25.0-node-unregistered", *log("1.25.0-node-connected").splitlines())
    assert (found.connected, found.refusal, found.failed) == (True, None, False)


def test_a_node_that_gave_up_and_does_not_end_has_failed_until_it_is_back():
    gave_up = "WARNING :   Giving up reconnection after 17.67 seconds and 3 tries."
    lines = ["INFO :      SuperNode ID: 7", RETRY, gave_up]
    assert exit_codes.node_connection(lines).failed
    assert not exit_codes.node_connection(lines[:2]).failed
    back = [*lines, "INFO :      Connection successful after 20.00 seconds and 4 tries."]
    assert not exit_codes.node_connection(back).failed
    assert exit_codes.node_connection(back).connected


@pytest.mark.parametrize("name", ["1.30.0-node-forgotten", "1.36.0-node-unregistered"])
def test_a_node_whose_process_outlives_its_failure_has_failed(name):
    assert peer(name).failed


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("1.25.0-node-clock", "Invalid timestamp"),
        (
            "1.25.0-node-wrong-ca",
            "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
        ),
        ("1.36.0-node-unregistered", "Failed to activate SuperNode."),
        (
            "1.39.0-node-wrong-ca",
            "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
        ),
        ("1.39.0-node-unregistered", "[code: 2004] Failed to activate SuperNode."),
    ],
)
def test_the_reason_of_a_failed_connection_is_found(name, detail):
    assert peer(name).detail == detail


def test_at_debug_level_a_retry_has_a_reason():
    line = "DEBUG 2026-11-24 04:51:16,820:     Connection attempt failed with exception: refused"
    assert exit_codes.node_connection([line, RETRY]).detail == "refused"


@pytest.mark.parametrize("path", ALL_LOGS, ids=lambda path: path.stem)
def test_the_telling_lines_tell_what_the_whole_log_does(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert exit_codes.node_connection(exit_codes.telling(lines)) == exit_codes.node_connection(
        lines
    )


@given(st.lists(st.sampled_from(ALL_LINES)), st.lists(st.sampled_from(ALL_LINES)))
def test_a_log_read_piece_by_piece_tells_the_same(first, second):
    whole = exit_codes.node_connection(first + second)
    kept = exit_codes.telling((*exit_codes.telling(first), *second))
    assert exit_codes.node_connection(kept) == whole
    assert len(kept) <= 6


@pytest.mark.parametrize("version", ["1.25.0-link", "1.36.0-link", "1.42.0-link", "1.42.0-node"])
def test_a_port_that_flower_did_not_get_is_in_use_and_nobody_is_said_to_listen(version):
    _, meaning = explained(1, f"{version}-port-taken")
    assert "was in use" in meaning
    assert "listens" not in meaning


def test_a_damaged_database_is_named_with_its_file_and_its_vm():
    found = exit_codes.explain(1, False, "sqlite3.DatabaseError: database disk image is malformed")
    assert found.error == "state.corrupt"
    assert "superlink/state.db on its VM" in found.meaning
    assert found.hint.startswith("On the SuperLink's VM: flower-agent down; cp -a ")
    assert found.hint.index("backup") < found.hint.index("move state.db away")


@pytest.mark.parametrize(
    ("code", "name", "error", "words"),
    [
        (1, "1.25.0-link-port-taken", "port.taken", "127.0.0.1:22503"),
        (3, "1.36.0-link-port-taken", "port.taken", "127.0.0.1:23603"),
        (1, "1.42.0-link-port-taken", "port.taken", "('127.0.0.1', 24202)"),
        (1, "1.42.0-node-port-taken", "port.taken", "('127.0.0.1', 24204)"),
        (1, "1.25.0-link-wrong-key", "container.exited", "key and certificate do not fit"),
        (1, "1.42.0-link-wrong-key", "tls.key_mismatch", "does not belong"),
        (1, "1.25.0-link-no-key-file", "container.exited", "--ssl-keyfile"),
        (1, "1.23.0-exec-no-database", "state.unwritable", "database"),
        (1, "1.30.0-link-no-database", "state.unwritable", "database"),
        (1, "1.25.0-node-clock", "peer.clock", "clock"),
        (0, "1.30.0-node-clock", "peer.clock", "clock"),
        (0, "1.42.0-node-clock", "peer.clock", "clock"),
        (0, "1.25.0-node-forgotten", "container.exited", "no longer knows"),
        (0, "1.36.0-node-forgotten", "container.exited", "no longer knows"),
        (0, "1.42.0-node-forgotten", "container.exited", "no longer knows"),
        (1, "1.25.0-node-unregistered", "enrol.waiting", "does not know this node's key"),
        (1, "1.30.0-node-ghost", "peer.ghost", "counts its last connection as active"),
        (1, "1.39.0-node-unregistered", "enrol.waiting", "does not know this node's key"),
        (1, "1.42.0-node-without-key", "enrol.mismatch", "requires a node key"),
        (1, "1.39.0-node-wrong-ca", "endpoint.untrusted", "not issued by the trusted CA"),
        (1, "1.42.0-node-wrong-ca-debug", "endpoint.untrusted", "not issued by the trusted CA"),
        (1, "1.42.0-node-bad-key", "container.exited", "OpenSSH format"),
    ],
)
def test_a_real_end_is_explained(code, name, error, words):
    found = explained(code, name)
    assert found[0] == error
    assert words in found[1]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("details = 'Hostname Verification Check failed'", "endpoint.wrong_name"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] … IP address mismatch, …", "endpoint.wrong_name"),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "endpoint.expired"),
        ("SSL_ERROR_SSL: OPENSSL_internal:WRONG_VERSION_NUMBER", "endpoint.plaintext"),
        ("UNIMPLEMENTED Method not found!", "endpoint.not_flower"),
        ("flwr version 1.31.0 detected a runtime version mismatch: expected", "version.mixed"),
        ("PermissionError: [Errno 13] Permission denied: '/app/keys/node.key'", "state.unwritable"),
        ("OSError: [Errno 28] No space left on device", "state.unwritable"),
        ("sqlite3.DatabaseError: database disk image is malformed", "state.corrupt"),
        ("bind on address ('::2', 8000): cannot assign requested address", "address.unknown"),
    ],
)
def test_a_telling_line_names_the_error(line, error):
    assert exit_codes.explain(1, False, f"ERROR :     {line}\n").error == error


def test_what_a_line_names_stands_in_the_meaning():
    line = "PermissionError: [Errno 13] Permission denied: '/app/certificates/server.key'"
    assert "/app/certificates/server.key" in exit_codes.explain(1, False, line).meaning


def test_a_bad_argument_is_named():
    line = "flower-superlink: error: unrecognized arguments: --storage-dir x"
    assert "--storage-dir x" in exit_codes.explain(2, False, line).meaning


def test_the_last_telling_line_counts():
    text = log("1.25.0-node-wrong-ca") + log("1.25.0-node-clock")
    assert exit_codes.explain(1, False, text).error == "peer.clock"


def test_a_superlink_is_not_blamed_for_what_it_says_of_its_nodes():
    text = (
        "INFO :      [Fleet.PullMessages] node_id=1\n"
        "I1124 ssl_transport_security.cc:2563] Handshake failed: WRONG_VERSION_NUMBER\n"
        "ERROR :     No SuperNode found with the given public key.\n"
        "ERROR :     Exit Code: 100\n"
    )
    found = exit_codes.explain(1, False, text)
    assert (found.flower_code, found.error) == (100, "container.exited")


def test_an_old_trouble_does_not_explain_a_clean_end():
    text = log("1.25.0-node-wrong-ca") + "INFO :      SuperNode terminated gracefully.\n"
    assert exit_codes.explain(0, False, text).error == "container.exited"


def test_a_node_that_is_forgotten_without_another_try_is_not_connected():
    seen = exit_codes.node_connection(
        ["INFO :      SuperNode ID: 5", '\tdetails = "Node ID 5 not found"']
    )
    assert (seen.connected, seen.refusal) == (False, Refusal.FORGOTTEN)


def test_a_superlink_without_room_for_its_database_is_named_by_its_nodes():
    found = explained(1, "1.25.0-node-superlink-disk-full")
    assert found == ("state.unwritable", "the SuperLink cannot write its database")


def test_a_clean_end_of_a_superlink_is_not_called_forgotten():
    found = exit_codes.explain(0, False, "INFO :      SuperLink terminated gracefully.\n")
    assert found.meaning == "it ended by itself without an error"


@pytest.mark.parametrize("code", sorted(exit_codes.FLOWER_CODES))
def test_flowers_own_code_is_read_through_the_colours(code):
    found = exit_codes.explain(1, False, f"\x1b[91mERROR \x1b[0m:     Exit Code: {code}\nwords\n")
    assert (found.code, found.flower_code) == (1, code)
    assert found.meaning == exit_codes.FLOWER_CODES[code].text


def test_the_code_of_an_app_does_not_explain_the_end_of_its_container():
    found = exit_codes.explain(1, False, "ERROR :     Exit Code: 201\nINFO : bye\n")
    assert found.flower_code is None


@pytest.mark.parametrize("code", [125, 126, 127, 137, 139, 143, 255])
def test_a_signal_or_docker_ended_it_whatever_the_log_says(code):
    found = exit_codes.explain(code, False, log("1.25.0-node-clock"))
    assert found.meaning == exit_codes.PROCESS_CODES[code].text


def test_a_lack_of_memory_is_told_whatever_the_log_says():
    found = exit_codes.explain(137, True, log("1.25.0-node-clock"))
    assert "memory" in found.meaning
    assert "FLOWER_MEMORY_LIMIT" in found.hint


def test_an_unknown_end_shows_its_last_words():
    text = "Traceback (most recent call last):\nValueError: no idea\nINFO:     Shutting down\n\n"
    assert exit_codes.explain(1, False, text).meaning == "status 1, after: ValueError: no idea"


def test_an_end_without_words_shows_its_status():
    assert exit_codes.explain(77, False, "").meaning == "status 77"


def test_a_container_that_runs_may_have_a_telling_log():
    assert (
        exit_codes.explain(None, False, log("1.23.0-exec-no-database")).error == "state.unwritable"
    )
    assert exit_codes.explain(None, False, log("1.25.0-node-connected")).meaning == ""


MEANINGS = (
    *exit_codes.FLOWER_CODES.values(),
    *exit_codes.APP_CODES.values(),
    *exit_codes.PROCESS_CODES.values(),
    *(sign.meaning for sign in exit_codes.SIGNS),
    exit_codes.LOST,
    exit_codes.OUT_OF_MEMORY,
    exit_codes.SILENT_REFUSAL,
)


@pytest.mark.parametrize("meaning", MEANINGS, ids=lambda meaning: meaning.text[:40])
def test_every_meaning_has_a_known_code_and_something_to_do(meaning):
    _, remedy = CATALOGUE[meaning.error]
    assert meaning.hint or remedy
    assert not meaning.text.endswith(".")


def test_an_app_code_never_ends_a_container():
    assert not set(exit_codes.FLOWER_CODES) & set(exit_codes.APP_CODES)


@given(st.text())
def test_any_log_is_read_without_an_error(text):
    found = exit_codes.explain(1, False, text)
    assert found.meaning
    assert not exit_codes.node_connection(text.splitlines()).connected or "SuperNode ID" in text


def test_colours_and_carriage_returns_are_taken_off():
    assert exit_codes.strip_ansi("\x1b[92mINFO \x1b[0m: x\x1b[2K\r\n") == "INFO : x\n"


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_an_app_cannot_write_a_line_in_flowers_name(end):
    log = f"INFO : app says{end}RuntimeError: generator didn't yield\n"
    lines = exit_codes.telling(foreign_text.lines(log))
    assert not exit_codes.node_connection(lines).failed


@pytest.mark.parametrize(
    "flood",
    [
        "Path argument " * 60_000,
        "Connection attempt failed with exception: " * 20_000,
        '"public_message": "' * 40_000,
        "[SSL: " * 100_000 + "x",
        "Path argument \n" * 60_000,
    ],
)
def test_a_line_without_end_is_read_in_a_moment(flood):
    began = time.monotonic()
    exit_codes.node_connection(exit_codes.telling(foreign_text.lines(flood)))
    exit_codes.explain(1, False, flood)
    assert time.monotonic() - began < 3

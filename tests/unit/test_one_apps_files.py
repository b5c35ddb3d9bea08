"""one-apps' files tell the truth, and what its harness looks for only when it is true."""

import datetime
import stat

import pytest

from flower_agent.model.errors import Finding
from flower_agent.model.status import Status
from flower_agent.paths import Paths
from flower_agent.reporting import one_apps
from flower_agent.reporting.one_apps import LOG_BYTES, ApplianceFiles

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def status(state, phase=None, code=None, **more):
    error = Finding(code, "x") if code else None
    return Status(
        state=state, since=NOW, phase=phase, phase_since=NOW, written_at=NOW, agent_version="",
        error=error, **({"role": "superlink", "version": "1.25.0"} | more),
    )  # fmt: skip


READY = status("ready", endpoint="10.0.0.5:9092", tls=True, ca_fingerprint="ab" * 32)
IMAGE = status("starting", "image", "image.pull")


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (status("starting", "context", role=None), "configure_started"),
        (status("failed", "context", "setting.invalid", role=None), "configure_failure"),
        (status("failed", "context", "setting.invalid"), "configure_failure"),
        (IMAGE, "bootstrap_started"),
        (READY, "bootstrap_success"),
        (status("stopped", None), "install_success"),
        (status("degraded", "peer", "peer.lost"), "bootstrap_started"),
        (status("failed", "image", "image.denied"), "bootstrap_failure"),
    ],
)
def test_the_word_follows_the_state(found, word):
    assert one_apps.word(found) == word
    assert (one_apps.READY in one_apps.motd(found)) == (word == "bootstrap_success")


def test_the_greeting_says_what_this_is_and_how_it_does():
    assert one_apps.motd(IMAGE) == (
        "\n  Flower superlink 1.25.0\n  starting, phase image: image.pull\n"
        "\n  More: flower-agent status\n\n"
    )
    assert "Flower superlink 1.25.0 at 10.0.0.5:9092\n" in one_apps.motd(READY)


def test_the_configuration_names_what_is_known():
    assert one_apps.config(READY) == (
        "[Flower]\nrole           = superlink\nversion        = 1.25.0\n"
        f"endpoint       = 10.0.0.5:9092\ntls            = YES\nca_fingerprint = {'ab' * 32}\n"
    )
    assert one_apps.config(status("starting", role=None, version=None)) == "[Flower]\n"


@pytest.fixture
def paths(tmp_path):
    found = Paths(tmp_path)
    found.appliance.mkdir(parents=True)
    found.appliance_logs.mkdir(parents=True)
    found.motd.write_text("Debian\n")
    return found


def kept(paths):
    return (paths.appliance / "status").read_text(), paths.motd.read_text()


def test_the_files_follow_the_state(paths):
    keeper = ApplianceFiles(paths)
    for found in (IMAGE, IMAGE, READY):
        keeper.keep(found, NOW)
        assert kept(paths) == (one_apps.word(found) + "\n", one_apps.motd(found))
    config = paths.appliance / "config"
    assert config.read_text() == one_apps.config(READY)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert (paths.appliance_logs / "bootstrap.log").read_text() == (
        "2026-01-02T03:04:05Z bootstrap_started: starting, phase image: image.pull\n"
        "2026-01-02T03:04:05Z bootstrap_success: All set and ready to serve 8)\n"
    )


def test_what_a_script_of_one_apps_wrote_too_early_is_put_right(paths):
    keeper = ApplianceFiles(paths)
    keeper.keep(IMAGE, NOW)
    (paths.appliance / "status").write_text("bootstrap_success\n")
    paths.motd.write_text(one_apps.READY)
    keeper.keep(IMAGE, NOW)
    assert kept(paths) == ("bootstrap_started\n", one_apps.motd(IMAGE))


def test_a_refused_context_is_in_the_log_of_its_stage(paths):
    ApplianceFiles(paths).keep(status("failed", "context", "setting.invalid", role=None), NOW)
    assert "setting.invalid" in (paths.appliance_logs / "configure.log").read_text()


def test_a_log_that_grew_large_begins_anew(paths):
    log = paths.appliance_logs / "bootstrap.log"
    log.write_text("x" * (LOG_BYTES + 1))
    ApplianceFiles(paths).keep(READY, NOW)
    assert log.read_text().startswith("2026-")


def test_without_one_apps_nothing_is_written(tmp_path):
    paths = Paths(tmp_path)
    paths.motd.parent.mkdir()
    paths.motd.write_text("Debian\n")
    ApplianceFiles(paths).keep(READY, NOW)
    assert paths.motd.read_text() == "Debian\n"
    assert not paths.appliance.exists()


def test_a_missing_greeting_and_missing_logs_are_not_made(tmp_path):
    paths = Paths(tmp_path)
    paths.appliance.mkdir(parents=True)
    ApplianceFiles(paths).keep(READY, NOW)
    assert (paths.appliance / "status").read_text() == "bootstrap_success\n"
    assert not paths.motd.exists()
    assert not paths.appliance_logs.exists()


def test_a_file_that_cannot_be_written_stops_nothing(paths):
    (paths.appliance / "config").mkdir()
    keeper = ApplianceFiles(paths)
    keeper.keep(READY, NOW)
    (paths.appliance / "config").rmdir()
    keeper.keep(READY, NOW)
    assert kept(paths)[0] == "bootstrap_success\n"

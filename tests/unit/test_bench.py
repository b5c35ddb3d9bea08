"""What tests/bench does without a clock: the storm in small, the apps' samples, the page."""

import ast
import functools
import pathlib

import apps
import bench
import federation
import pytest
import storm

NODES = 40


run = functools.cache(storm.run)


def test_a_start_is_two_bodies_and_two_look_ups_and_none_is_lost():
    found = run(storm.Storm(NODES))
    assert found.lost == found.failed == 0
    assert found.looks == 2
    assert 2 <= found.puts < 3
    assert found.burst <= 4 * NODES


def test_without_keys_it_is_two_bodies_and_two_look_ups_exactly():
    found = run(storm.Storm(NODES, keys=False))
    assert (found.puts, found.looks, found.lost, found.failed) == (2, 2, 0, 0)


def test_a_superlink_asks_no_more_of_onegate_when_it_has_more_nodes():
    few, many = (run(storm.Storm(nodes)).link_a_minute for nodes in (5, NODES))
    assert few == many
    assert many < 3


def test_nodes_that_boot_together_are_let_in_as_fast_as_onegate_answers():
    assert run(storm.Storm(NODES)).half_s < 8


def test_agents_spread_after_a_boot_and_after_an_outage():
    found, still = (run(storm.Storm(NODES, still=still)) for still in (False, True))
    assert max(found.calm, found.back) < NODES / 6
    assert still.calm > NODES / 2


def test_all_come_up_when_onegate_is_slow_or_away():
    for tried in (storm.Storm(NODES, a_second=5), storm.Storm(NODES, dark_s=120)):
        found = run(tried)
        assert found.lost == 0
        assert found.failed > 0
        assert found.ready_s < 600


def test_the_page_has_a_place_for_each_measurement():
    page = bench.PAGE.read_text()
    for name in bench.MEASUREMENTS:
        assert bench.replaced(page, name, "new").count(f"<!-- {name} -->\nnew\n<!-- /") == 1


def test_runs_are_told_beside_the_scripts_and_a_dead_app_beside_a_minute(monkeypatch):
    found = {
        ("run", "agent"): [10.0, 10.4, 12.0],
        ("run", "script"): [10.0, 9.0, 11.0],
        "killed": [0.6, 1.2, 3.0],
    }
    monkeypatch.setattr(apps, "measure", lambda *_: found)
    options = type("Options", (), {"base_port": 1, "times": 3})
    run, killed = bench.of_apps(options).splitlines()[2:]
    assert run.startswith("| run of three rounds, warm |")
    assert run.endswith("| 1.04 | 0.96 to 1.15 | 0.90 to 1.10 |")
    assert killed.startswith("| a killed ClientApp to the warning | a minute | 0.02 |")


def test_the_first_run_of_each_federation_does_not_count(monkeypatch):
    begun = []

    class Fleet:
        bed = None

        def __init__(self, way):
            self.way = way

        def __enter__(self):
            return self

        def __exit__(self, *_):
            begun.append(f"{self.way} down")

        def run(self, _):
            begun.append(self.way)
            return float(len(begun))

    monkeypatch.setattr(apps, "by_agent", lambda *_: Fleet("agent"))
    monkeypatch.setattr(apps, "by_script", lambda *_: Fleet("script"))
    monkeypatch.setattr(apps, "bundles", lambda _: (b"whole", b"stuck"))
    monkeypatch.setattr(apps, "killed", lambda *_: 0.5)
    found = apps.measure(pathlib.Path("/nonexistent"), 1, 2)
    assert begun == [*["agent", "script"] * 3, "script down", "agent down"]
    assert found["run", "agent"] == [3.0, 5.0]
    assert found["run", "script"] == [4.0, 6.0]
    assert found["killed"] == [0.5, 0.5]


def test_a_clientapp_of_node_0_waits_and_the_others_train():
    source = (federation.APP / apps.CLIENT).read_bytes()
    tree = ast.parse(apps.waiting(source))
    train = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train")
    asked = train.body[1]
    assert ast.unparse(asked.test) == "context.node_config['partition-id'] == 0"
    assert ast.unparse(asked.body[-2]) == "pathlib.Path('trains').touch()"
    assert ast.unparse(asked.body[-1]) == "time.sleep(3600)"
    with pytest.raises(ValueError, match="another one"):
        apps.waiting(b"app = None\n")


@pytest.mark.parametrize(
    ("words", "is_app"),
    [
        ("python /app/launcher/program.py flwr-clientapp --insecure", True),
        ("python -I -S /app/launcher/launcher.py flwr-clientapp --insecure", False),
        ("python /app/launcher/program.py flower-superexec --insecure", False),
        ("/python/venv/bin/python /python/venv/bin/flower-superexec --plugin-type x", False),
    ],
)
def test_the_app_itself_is_killed_and_not_its_launcher(words, is_app):
    assert apps.is_app(words.encode().split()) is is_app


def test_the_warning_about_this_run_counts():
    message = "a ClientApp of run 71 was killed (SIGKILL), without an answer to the SuperLink"
    status = {"warnings": [{"code": "run.client_died", "message": message}]}
    assert apps.warned(status, "71")
    assert not apps.warned(status, "7")
    assert not apps.warned({}, "71")
    assert not apps.warned({"warnings": [{"code": "run.failed", "message": message}]}, "71")


def test_a_run_takes_from_its_submission_to_its_end():
    assert apps.took_s("2026-01-31T10:00:00.500000+00:00", "2026-01-31T10:00:11+00:00") == 10.5

"""From FL_… to an app's own keys, in its own types; what it does not read is a warning."""

import pytest

from flower_agent.config import parsing
from flower_agent.model.errors import AgentError
from flower_agent.runs import pyproject
from flower_agent.runs.pyproject import App

SERVER = {"FLOWER_ROLE": "server"}


def fit(config, **variables):
    parsed = parsing.parse({**SERVER, **variables}, {})
    return pyproject.fit(parsed.settings, App("me/mine", "1", tuple(config.items())))


def overrides(config, **variables):
    return dict(fit(config, **variables).overrides)


CONFIG = {"num-server-rounds": 10, "strategy": "FedProx", "min-clients": 9, "other": 1}


def test_what_is_not_set_leaves_the_apps_own_defaults():
    assert overrides(CONFIG) == {}


def test_what_is_set_goes_to_the_keys_of_flowers_templates():
    found = overrides(CONFIG, FL_NUM_ROUNDS="3", FL_STRATEGY="FedAvg", FL_MIN_CLIENTS="2")
    assert found == {"num-server-rounds": 3, "strategy": "FedAvg", "min-clients": 2}


def test_a_default_of_the_image_counts_as_set():
    parsed = parsing.parse(SERVER, {"fl_num_rounds": "5"})
    fitted = pyproject.fit(parsed.settings, App("me/mine", "1", tuple(CONFIG.items())))
    assert fitted.overrides == (("num-server-rounds", 5),)


@pytest.mark.parametrize(
    "key",
    [
        "num-server-rounds",
        "num_server_rounds",
        "num-rounds",
        "Num_Rounds",
        "rounds",
        "num-global-rounds",
        "communication_rounds",
    ],
)
def test_rounds_are_found_under_the_names_that_apps_use(key):
    assert overrides({key: 1}, FL_NUM_ROUNDS="7") == {key: 7}


def test_the_first_of_two_keys_for_rounds_is_set():
    assert overrides({"rounds": 1, "num-server-rounds": 1}, FL_NUM_ROUNDS="7") == {
        "num-server-rounds": 7
    }


def test_every_key_for_clients_is_set():
    config = dict.fromkeys(
        (
            "min-fit-clients",
            "min_available_clients",
            "min-num-clients",
            "min-train-nodes",
            "strategy.min-available-nodes",
        ),
        1,
    )
    assert overrides(config, FL_MIN_CLIENTS="5") == dict.fromkeys(config, 5)


@pytest.mark.parametrize("key", ["local-epochs", "local_epochs", "local.epochs"])
def test_a_further_key_is_found_as_the_app_writes_it(key):
    assert overrides({key: 1}, FL_CONFIG_LOCAL_EPOCHS="5") == {key: 5}


@pytest.mark.parametrize(
    ("default", "text", "want"),
    [
        (1, "5", 5),
        (0.1, "5", 5.0),
        (0.1, "1e-3", 0.001),
        ("x", "5", "5"),
        ("x", "true", "true"),
        (True, "NO", False),
        (False, "true", True),
        (1, "-5", -5),
    ],
)
def test_a_value_has_the_type_that_the_app_declares(default, text, want):
    found = overrides({"lr": default}, FL_CONFIG_LR=text)["lr"]
    assert (found, type(found)) == (want, type(want))


@pytest.mark.parametrize(
    ("default", "text"), [(1, "0.5"), (1, "many"), (0.1, "x"), (True, "2"), (1, "true")]
)
def test_a_value_of_another_type_is_an_error_with_variable_and_key(default, text):
    with pytest.raises(AgentError) as caught:
        fit({"lr": default}, FL_CONFIG_LR=text)
    finding = caught.value.finding
    assert finding.code == "run.config"
    assert "FL_CONFIG_LR sets lr" in finding.message
    assert repr(default) in finding.message


def test_what_the_app_does_not_declare_is_not_sent_and_is_a_warning():
    found = fit({"lr": 0.1}, FL_NUM_ROUNDS="7", FL_CONFIG_DEPTH="3")
    assert found.overrides == ()
    assert [f.code for f in found.findings] == ["run.unread"] * 2
    rounds, depth = (f.message for f in found.findings)
    assert rounds.startswith("FL_NUM_ROUNDS is set, but me/mine declares none of num-server-rounds")
    assert depth == "FL_CONFIG_DEPTH is set, but me/mine does not declare depth"
    assert found.findings[0].hint == "The app declares: lr."


def test_a_default_that_the_app_does_not_read_is_no_warning():
    assert fit({}).findings == ()


def test_min_clients_has_an_effect_all_the_same():
    (found,) = fit({}, FL_MIN_CLIENTS="4").findings
    assert found.hint.endswith("The run still waits for that number of SuperNodes.")

"""The values for Flower's charts: every variable has a counterpart or is said to be lost.

The charts cannot be had, so `test_helm_template` renders one of its own: `tests/data/helm` has the
names of their parameters as Flower's documentation lists them (framework/docs/source/helm, March
2026).
"""

import helm
import pytest
import yaml
from helm_samples import CHARTS, DATA, PEM, TOGETHER, VECTORS, settings_of

from flower_agent.config import settings
from flower_agent.config.types import Role


def leaves(held, path=""):
    for key, value in held.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and here not in VECTORS:
            yield from leaves(value, here)
        else:
            yield here


def variants():
    for role in CHARTS:
        for row in settings.SETTINGS[1:]:
            if role in row.roles:
                yield pytest.param(role, row, id=f"{role}-{row.name}")


def sample(role, row):
    if role is Role.SUPERLINK and row.name == "TLS_CA_CERT":
        return {"TLS_CA_CERT": PEM, **TOGETHER["TLS_CERT"]}
    if row.name in TOGETHER:
        return TOGETHER[row.name]
    if role is Role.SUPERNODE and row.name == "FLOWER_TLS_SANS":  # of the AppIo that it offers
        return {row.name: row.sample, "FLOWER_APPIO_LISTEN": "10.0.0.5:9094"}
    return {row.name.replace("<KEY>", "LOCAL_EPOCHS"): row.sample}


@pytest.mark.parametrize(("role", "row"), [*variants()])
def test_a_variable_shows_in_the_values_or_is_said_to_be_lost(role, row):
    given = sample(role, row)
    changed = helm.values(settings_of(role, **given)) != helm.values(settings_of(role))
    told = helm.lost(given)
    assert changed or told
    assert not (changed and told) or row.name == "FLOWER_CONTROL_ADDRESS", "its port is not lost"


@pytest.mark.parametrize(("role", "row"), [*variants()])
def test_the_charts_know_every_value(role, row):
    known = set((DATA / "helm" / f"{CHARTS[role]}.txt").read_text().split())
    assert set(leaves(helm.values(settings_of(role, **sample(role, row))))) <= known


def test_no_secret_is_among_the_values():
    pair = TOGETHER["TLS_KEY"] | {"FLOWER_REGISTRY_USER": "u", "FLOWER_REGISTRY_PASSWORD": "s3cret"}
    text = yaml.safe_dump(helm.values(settings_of(Role.SUPERLINK, **pair)))
    assert "s3cret" not in text
    assert "PRIVATE KEY" not in text
    node = settings_of(Role.SUPERNODE, **TOGETHER["FLOWER_NODE_PRIVATE_KEY"])
    assert "PRIVATE KEY" not in yaml.safe_dump(helm.values(node))


def test_the_command_prints_values_and_what_is_lost(tmp_path, capsys):
    path = tmp_path / "context.sh"
    path.write_text("FLOWER_ROLE='server'\nONEAPP_FL_NUM_ROUNDS='5'\nFL_CONFIG_LR='0.1'\n")
    assert helm.main([str(path)]) == 0
    told = capsys.readouterr()
    assert yaml.safe_load(told.out)["superlink"]["image"] == {
        "registry": "docker.io",
        "repository": "flwr/superlink",
        "tag": "1.25.0-py3.13-ubuntu24.04",
    }
    assert "lost: FL_NUM_ROUNDS" in told.err
    assert "lost: FL_CONFIG_<KEY>" in told.err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FLOWER_ROLE='superexec'\nFLOWER_APPIO_ADDRESS='h:1'\n", "superexec.enabled"),
        ("FLOWER_ROLE='client'\n", "set FLOWER_SERVER_ADDRESS"),
        ("", "FLOWER_ROLE"),
    ],
)
def test_what_makes_no_values_is_told(text, why, tmp_path, capsys):
    path = tmp_path / "context.sh"
    path.write_text(text)
    assert helm.main([str(path)]) == 1
    assert why in capsys.readouterr().err

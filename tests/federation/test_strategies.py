"""Every strategy of the reference app, each really run: one federation, a round of each.

Three runs at a time share the federation; each is submitted as an operator would.
"""

import re
from concurrent import futures

import pytest
from digits import config
from federation import APP
from watched import WatchedFederation

from flower_agent.config import flower_versions

pytestmark = [pytest.mark.engine, pytest.mark.federation, pytest.mark.long]

QUICK = ("num-server-rounds=1", "fraction-evaluate=0")
UNTRAINED = 0.125
AT_ONCE = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory, images):
    """What ``flower-agent submit`` said of each strategy."""
    made = WatchedFederation(
        tmp_path_factory.mktemp("strategies"),
        name="fstrategies",
        base_port=21200,
        variables={"FLOWER_VERSION": flower_versions.DEFAULT},
        environment={"FLOWER_AGENT_TIME_SCALE": "0.1"},
        say=lambda _: None,
    )

    def submit(strategy):
        pairs = [word for each in (*QUICK, f"strategy={strategy}") for word in ("-c", each)]
        return made.agent(made.superlink, "submit", str(APP), *pairs)

    try:
        made.up()
        made.connected()
        with futures.ThreadPoolExecutor(AT_ONCE) as pool:
            yield dict(zip(config.STRATEGIES, pool.map(submit, config.STRATEGIES), strict=True))
    finally:
        made.down()


@pytest.mark.parametrize("strategy", config.STRATEGIES)
def test_a_strategy_runs_and_the_model_learns(runs, strategy):
    done = runs[strategy]
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = float(re.search(r"round 1 of 1: accuracy ([\d.]+)", done.stdout)[1])
    assert accuracy > UNTRAINED
    assert "finished; its log is in" in done.stdout

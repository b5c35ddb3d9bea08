"""The two sizes that are gates; `tests/bench/sizes.py` prints the others."""

import sizes

LONGEST = 50


def every():
    for path in sorted((sizes.ROOT / "flower_agent").rglob("*.py")):
        for node, length in sizes.measured(path):
            yield f"{path.name}: {node.name}", node, length


def test_no_function_is_longer_than_fifty_lines():
    assert {name: length for name, _, length in every() if length > LONGEST} == {}


def test_every_function_has_a_return_type():
    assert [name for name, node, _ in every() if node.returns is None] == []

#!/usr/bin/env python3
"""Write the appliance script for OpenNebula's one-apps, with the table of variables in it.

Needs Python 3.11 and this checkout, no libraries. A row of ``ONE_SERVICE_PARAMS`` is name, stage,
description and the type of the USER_INPUT (one-apps, appliances/lib/common.sh).
"""

import argparse
import pathlib
import shlex
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import user_inputs  # noqa: E402 - found beside this file

from flower_agent import __version__  # noqa: E402

SCRIPT = REPOSITORY / "contrib" / "one-apps" / "appliance.sh"


def parameters() -> list[tuple[str, str, str, str]]:
    """Return the rows of ``ONE_SERVICE_PARAMS``, in the order of the table of variables."""
    asked = user_inputs.inputs(user_inputs.offered_by_an_appliance())
    rows = []
    for name, text in asked.items():
        _, kind, meaning, _, _ = text.split("|")
        # No M: what one role needs is nothing to another, and the agent says what is missing.
        rows.append((name, "configure", meaning, f"O|{kind}"))
    return rows


def script() -> str:
    """Return the appliance script, whole."""
    rows = (" ".join(map(shlex.quote, row)) for row in parameters())
    text = SCRIPT.read_text(encoding="utf-8").replace("@VERSION@", __version__)
    return text.replace("@PARAMS@", "\n".join(f"    {row}" for row in rows))


def main(arguments: list[str] | None = None) -> int:
    """Write the script; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = REPOSITORY / "build" / "one-apps" / "appliance.sh"
    parser.add_argument("--output", type=pathlib.Path, default=where)
    output = parser.parse_args(arguments).output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(script(), encoding="utf-8")
    output.chmod(0o755)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

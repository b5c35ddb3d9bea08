"""Hostile values in every variable: refused by name, or inert wherever they arrive."""

import re

import pytest
from vm_samples import EXEC, GIVEN, LINK, NODE, SUBPROCESS, site

from flower_agent.config import parsing, settings
from flower_agent.flower import container_spec

TEXTS = {
    "substitution": "$(touch /run/owned)",
    "backquotes": "`touch /run/owned`",
    "separators": "x; touch /run/owned & touch /run/owned | sh",
    "newline": "x\ntouch /run/owned\nFLOWER_ROLE=server",
    "quotes": "'; touch /run/owned; \"",
    "flag": "--insecure",
    "flag with value": "--database=/etc/passwd",
    "parent": "../../../etc/shadow",
    "path": "/etc/shadow",
    "mount": "/:/host:rw",
    "control characters": "a\x1b]0;owned\x07\x08\x00b",
    "format": "%s%n{0.__class__}${PATH}",
    "newline of Unicode": "a\u2028b\x85c",
    "right to left": "abc\u202egnp.exe",
    "not a letter": "\udcff\udc80",
    "long": "A" * 200_000,
    "number": "9" * 5_000,
    "pair": "key=$(touch /run/owned)",
    "pair with a flag": "--node-config=x key=1",
}
NAMES = [row.name for row in settings.SETTINGS if row.stem is None] + ["FL_CONFIG_X"]
UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("base", [LINK, NODE, EXEC], ids=lambda base: base["FLOWER_ROLE"])
def test_a_hostile_value_is_refused_by_name_or_inert(base, text):
    for name in NAMES:
        parsed = parsing.parse({**base, **SUBPROCESS, name: TEXTS[text]}, {})
        shown = [f"{found.message} {found.hint}" for found in parsed.findings]
        assert not [line for line in shown if UNPRINTABLE.search(line)], name
        assert max(map(len, shown), default=0) < 1000, name
        if parsed.settings is None:
            assert any(name in line for line in shown), name
            continue
        for container in container_spec.containers(parsed.settings, site(parsed.settings)):
            words = [*container.command, container.image, container.name]
            words += [word for pair in container.environment for word in pair]
            assert not [word for word in words if UNPRINTABLE.search(word)], name
            flags = {word for word in container.command if word.startswith("-")}
            assert flags <= FLAGS, name
            assert {mount.source for mount in container.mounts} <= SOURCES, name
            assert not re.search(r"[^\w.:/@-]|\.\.", container.image), name


def _usual():
    """Return the flags and the mounts that containers have without any hostile value."""
    flags, sources = set(), set()
    for base in (LINK, NODE, EXEC, {**LINK, **GIVEN}, {**NODE, "TLS_ENABLED": "NO"}):
        for more in ({}, SUBPROCESS, {"FLOWER_NODE_CONFIG": "a=1"}, {"FLOWER_LOG_LEVEL": "DEBUG"}):
            found = parsing.parse({**base, **more}, {}).settings
            for container in container_spec.containers(found, site(found)) if found else ():
                flags |= {word for word in container.command if word.startswith("-")}
                sources |= {mount.source for mount in container.mounts}
    return flags, sources


FLAGS, SOURCES = _usual()

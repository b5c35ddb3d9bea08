"""The band matrix: a version of each band, and a table that the docs carry."""

import pathlib
import re

import bands
import pytest

from flower_agent.config import flower_versions

ROOT = pathlib.Path(__file__).parents[2]
RELEASES = re.findall(
    r"\b1\.\d+\.\d+\b", (ROOT / "tests/data/flower-flags.txt").read_text(encoding="utf-8")
)


def band(text):
    return flower_versions.band(flower_versions.parse_version(text)).id


def test_the_matrix_has_the_newest_release_of_each_band():
    newest = {}
    known = {flower_versions.parse_version(text) for text in RELEASES if text >= "1.23"}
    for version in sorted(known, key=lambda version: version.release):
        newest[flower_versions.band(version).id] = str(version)
    assert tuple(newest.values()) == bands.VERSIONS
    assert set(newest) == {row.id for row in flower_versions.BANDS}


@pytest.mark.parametrize("version", [*bands.VERSIONS, flower_versions.DEFAULT])
def test_the_docs_have_a_row_of_each_version_and_of_the_default(version):
    page = (ROOT / "docs/versions.md").read_text(encoding="utf-8")
    assert "\n".join(bands.HEAD) in page
    assert f"\n| {version} | 2 of 2 | yes |" in page


@pytest.mark.parametrize(
    ("connected", "finished", "good"), [(2, True, True), (1, True, False), (2, False, False)]
)
def test_a_version_is_good_when_all_nodes_connected_and_the_run_finished(connected, finished, good):
    result = bands.Result("1.42.0", connected, finished, "0.875" if finished else "-", 5.4, 41.6)
    assert result.good is good
    assert str(result).startswith(f"| 1.42.0 | {connected} of 2 | {'yes' if finished else 'no'} |")
    assert str(result).endswith("| 5 | 42 |")

"""Whether mounts made later reach a directory, as the kernel's table tells."""

import pytest

from flower_agent.host.machine import follows

ROOT = "22 1 254:1 / / rw,relatime {}- ext4 /dev/vda1 rw"
DATA = "40 22 254:16 / /srv/data rw,relatime {}- xfs /dev/vdb rw"


def table(*lines):
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("optional", "expected"),
    [
        ("shared:1 ", True),
        ("master:7 ", True),
        ("shared:1 master:7 ", True),
        ("master:7 propagate_from:3 ", True),
        ("unbindable ", False),
        ("", False),
    ],
)
def test_a_mount_follows_where_it_is_shared_or_a_slave(optional, expected):
    assert follows(table(ROOT.format(optional)), "/srv/data") is expected


def test_the_nearest_mount_counts():
    lines = table(ROOT.format("shared:1 "), DATA.format(""))
    assert not follows(lines, "/srv/data")
    assert not follows(lines, "/srv/data/node")
    assert follows(lines, "/srv")
    assert follows(lines, "/srv/database")


def test_the_order_of_the_table_does_not_matter_for_other_places():
    assert not follows(table(DATA.format(""), ROOT.format("shared:1 ")), "/srv/data")


def test_of_two_mounts_on_one_place_the_later_one_is_seen():
    assert follows(table(DATA.format(""), DATA.format("shared:9 ")), "/srv/data")
    assert not follows(table(DATA.format("shared:9 "), DATA.format("")), "/srv/data")


def test_a_blank_in_a_path_is_written_as_a_number():
    line = DATA.format("shared:9 ").replace("/srv/data", "/srv/my\\040data")
    assert follows(table(ROOT.format(""), line), "/srv/my data/x")


def test_a_file_system_called_shared_does_not_share():
    line = "22 1 0:5 / / rw - fuse shared:1 rw,master:2"
    assert not follows(table(line), "/srv")


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "22 1 254:1 / / rw"])
def test_what_is_no_table_tells_nothing(text):
    assert not follows(text, "/srv/data")

"""What an app declares, and the image that has it."""

import json

import pytest

from flower_agent.errors import AgentError
from flower_agent.wanted import app_images

WANTED = (
    "Torch_Vision >=0.20",
    "flwr[simulation]>=1.23",
    "numpy>=1.26,<3",
    "Flwr",
    "numpy>=1.26,<3",
)
SHA256 = "c" * 64


def report(**archive):
    found = {"metadata": {"name": "Torch_Vision", "version": "0.28.0"}}
    return json.dumps(
        {"version": "1", "install": [{**found, "download_info": {"archive_info": archive}}]}
    ).encode()


def test_flower_itself_is_in_the_image_and_not_among_what_is_needed():
    assert app_images.needed(WANTED) == ("Torch_Vision >=0.20", "numpy>=1.26,<3")


@pytest.mark.parametrize(
    "text",
    [
        *("x @ git+https://a.example/x", "-r other.txt", "--index-url=https://a.example", ""),
        *("https://a.example/x.whl", "media/x.whl", "x --config-settings=a=b", "x ${HOME}"),
    ],
)
def test_what_is_no_name_with_versions_is_refused(text):
    with pytest.raises(AgentError, match="want a name and versions") as caught:
        app_images.needed((text,))
    assert caught.value.finding.code == "image.framework"


def test_the_same_needs_on_the_same_parent_are_the_same_image():
    one, two = app_images.needed(WANTED), app_images.needed(reversed(WANTED))
    name = app_images.image("flower-agent/superexec:1.25.0-sklearn", one)
    assert name.startswith("flower-agent/superexec:1.25.0-sklearn-app-")
    assert name == app_images.image("flower-agent/superexec:1.25.0-sklearn", two)
    assert app_images.image("registry:5000/flwr/superexec:1.25.0", one).startswith(
        "flower-agent/superexec:1.25.0-app-"
    )


def test_another_parent_or_other_needs_make_another_image():
    made = {app_images.made_of(parent, needs) for parent in "ab" for needs in (("x",), ("x", "y"))}
    assert len(made) == 4


def test_pips_report_is_the_lock():
    lock = app_images.lock(report(hashes={"sha256": SHA256}))
    assert lock.text == f"torch-vision==0.28.0 --hash=sha256:{SHA256}  # 0 bytes\n"
    assert app_images.lock(b'{"install": []}').names == ()


@pytest.mark.parametrize("data", [report(), b"[]", b"{}", b"no json"])
def test_what_is_no_report_of_pip_is_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011
        app_images.lock(data)


def test_an_app_that_wants_another_flower_is_refused():
    found = json.loads(report(hashes={"sha256": SHA256}))
    found["install"][0]["metadata"]["name"] = "flwr"
    with pytest.raises(AgentError, match="would change Flower itself"):
        app_images.lock(json.dumps(found).encode())


def test_an_image_is_told_by_its_name_to_be_of_a_parent():
    plain = "flwr/superexec:1.25.0"
    assert app_images.derives(app_images.image(plain, ("x",)), plain)
    assert not app_images.derives(app_images.image(plain, ("x",)), "flwr/superexec:1.25.0-sklearn")


def test_nothing_is_built_where_an_apps_needs_are_looked_up():
    assert {"--dry-run", "--only-binary=:all:"} <= set(app_images.resolve())

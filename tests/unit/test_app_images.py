"""What an app declares, and the image that has it."""

import json

import pytest

from flower_agent.images import app_images
from flower_agent.images import wheels as images_wheels
from flower_agent.model.errors import AgentError
from flower_agent.onegate import status_attributes as onegate

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


def installs(*rows):
    """Return pip's report of some wheels: name, version, address."""
    return json.dumps(
        {
            "install": [
                {
                    "metadata": {"name": name, "version": version},
                    "download_info": {"url": url, "archive_info": {"hashes": {"sha256": SHA256}}},
                }
                for name, version, url in rows
            ]
        }
    ).encode()


def test_only_torch_and_its_kin_are_asked_of_the_index_of_cpu_builds():
    found = installs(("Torch", "2.8.0", ""), ("torchvision", "0.23.0+cpu", ""), ("numpy", "2", ""))
    assert app_images.with_cuda(found) == ("torch==2.8.0",)
    command = app_images.fetch_cpu()
    assert "--no-deps" in command
    assert "--extra-index-url" not in " ".join(command)


def test_cpu_builds_are_taken_together_or_not_at_all():
    wheels = ["torch-2.8.0+cpu-cp311-cp311-linux_x86_64.whl", "torch-2.8.01+cpu-x.whl", "x.whl"]
    assert app_images.cpu_builds(["torch==2.8.0"], wheels) == ("torch==2.8.0+cpu",)
    assert app_images.cpu_builds(["torch==2.8.0", "torchvision==0.23.0"], wheels) == ()


def test_a_lock_says_how_much_it_is_and_what_comes_from_the_index_of_cpu_builds():
    found = installs(("torch", "2.8.0+cpu", "file:///t"), ("numpy", "2", "https://i/n"))
    sizes = {"file:///t": 184_000_000}
    lock = app_images.lock(found, sizes, cpu=["torch==2.8.0+cpu"], index="https://c/cpu")
    assert [(part.index, part.wheels) for part in lock.parts] == [
        ("", (("numpy 2", 0),)),
        ("https://c/cpu", (("torch 2.8.0+cpu", 184_000_000),)),
    ]
    assert lock.amount == "2 wheels, 184 MB and 1 of unknown size"
    assert app_images.lock(found).amount == "2 wheels of unknown size"
    assert app_images.lock(b'{"install": []}').amount == "0 wheels"


def test_builds_for_a_gpu_are_another_image():
    parent = "flwr/superexec:1.25.0"
    assert app_images.image(parent, ("x",)) != app_images.image(parent, ("x",), cuda=True)
    assert app_images.made_of(parent, ("x",)) != app_images.made_of(parent, ("x",), cuda=True)


@pytest.mark.parametrize("data", [None, b"", b"[", b"[]", b'{"a": "b", "c": -1, "d": 0}'])
def test_sizes_that_are_not_known_are_left_out(data):
    assert images_wheels.read(data) == {}


def test_sizes_are_read():
    assert images_wheels.read(b'{"https://i/n": 12}') == {"https://i/n": 12}


PIN = f"sha256:{'a' * 64}"
MANY = [f"package-number-{number}>=1" for number in range(40)]


@pytest.mark.parametrize(
    ("lacking", "told", "names"),
    [
        (None, PIN, None),
        ((), f"{PIN} lacks -", ()),
        (("X_Y>=1,<2 (it has 0.9)", "a[b]"), f"{PIN} lacks a;x-y", ("a", "x-y")),
    ],
)
def test_what_is_published_of_an_image_is_what_is_read(lacking, told, names):
    assert app_images.published(PIN, lacking) == told
    assert app_images.read_published(told) == (PIN, names)


@pytest.mark.parametrize("lacking", [None, (), ("torch",), MANY])
def test_onegate_keeps_what_is_published_of_an_image_as_it_is(lacking):
    told = app_images.published(PIN, lacking)
    assert onegate.words(told) == told
    assert len(told) <= 200


def test_names_that_do_not_fit_are_counted():
    _, names = app_images.read_published(app_images.published(PIN, MANY))
    assert names[-1] == f"+{40 - (len(names) - 1)}"
    assert names[0] == "package-number-0"


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", PIN[:-1], f"{PIN} ", f"{PIN} lacks ", f"{PIN} lacks a,b", f"{PIN} lacks a;;b"),
        *(f"{PIN} lacks {'a' * 1_048_576}", f"{PIN} lacks {'a;' * 60}", f"{PIN} lacks +1;a"),
    ],
)
def test_what_a_stranger_wrote_tells_nothing(text):
    assert app_images.read_published(text) == ("", None)


def test_an_image_without_a_digest_is_not_published():
    assert app_images.published("", ("torch",)) == ""
    assert app_images.published("flwr/superexec:1.25.0", None) == ""

"""What is pinned stays pinned; what was built here goes by its tag."""

import pytest

from flower_agent.docker import image_references
from flower_agent.docker.image_references import (
    Image,
    Reference,
    dump_lock,
    locked_reference,
    parse_apps,
    parse_lock,
    pin,
    pinned,
)
from flower_agent.model.state import AppNeeds

TAG = "flwr/superlink:1.25.0"
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def image(*digests):
    return Image("sha256:" + "0" * 64, digests)


@pytest.mark.parametrize(
    ("text", "repository", "tag"),
    [
        ("flwr/superlink:1.25.0", "flwr/superlink", "1.25.0"),
        ("flwr/superlink", "flwr/superlink", "latest"),
        ("registry:5000/flwr/superlink:1", "registry:5000/flwr/superlink", "1"),
        ("registry:5000/flwr/superlink", "registry:5000/flwr/superlink", "latest"),
        ("superlink:1", "superlink", "1"),
    ],
)
def test_a_port_is_not_taken_for_a_tag(text, repository, tag):
    assert Reference.parse(text) == Reference(repository, tag)


def test_a_locked_reference_goes_by_digest_and_not_by_tag():
    assert locked_reference(TAG, OLD) == f"flwr/superlink@{OLD}"


def test_a_pulled_image_is_used_by_its_digest():
    assert pinned(TAG, image(f"flwr/superlink@{OLD}")) == f"flwr/superlink@{OLD}"


def test_an_image_that_was_built_here_is_used_by_its_tag():
    assert pinned(TAG, image()) == TAG


def test_a_digest_of_another_registry_is_not_this_images():
    mirror = image(f"mirror:5000/flwr/superlink@{OLD}")
    assert pinned(TAG, mirror) == TAG
    assert pinned(TAG, mirror, OLD) is None


def test_a_pinned_image_is_used_where_it_is_the_one():
    both = image(f"flwr/superlink@{NEW}", f"flwr/superlink@{OLD}")
    assert pinned(TAG, both, OLD) == f"flwr/superlink@{OLD}"


@pytest.mark.parametrize("moved", [image(f"flwr/superlink@{NEW}"), image()])
def test_a_tag_that_moved_is_never_used_by_stealth(moved):
    assert pinned(TAG, moved, OLD) is None


@pytest.mark.parametrize(
    "reference", ["docker.io/flwr/superlink:1.25.0", "index.docker.io/flwr/superlink:1.25.0"]
)
def test_docker_does_not_name_the_host_of_its_own_registry(reference):
    assert pinned(reference, image(f"flwr/superlink@{OLD}"), OLD) == f"flwr/superlink@{OLD}"


def test_docker_does_not_name_the_library_of_its_own_registry():
    assert pinned("docker.io/library/x:1", image(f"x@{OLD}"), OLD) == f"x@{OLD}"


def test_without_a_lock_nothing_is_locked():
    assert parse_lock(None) == {}


def test_a_lock_gives_the_digest_of_each_reference():
    assert parse_lock(b'{"images": {"flwr/superlink:1.25.0": "sha256:aa"}}') == {TAG: "sha256:aa"}


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\xff", b"[]", b"{}", b'{"images": []}', b'{"images": {"a": 1}}']
)
def test_a_lock_that_is_something_else_is_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011 - some in the words of the JSON library
        parse_lock(data)


def test_what_was_built_here_may_be_pinned_by_its_id():
    built = image()
    assert pinned(TAG, built, built.image_id) == built.image_id
    assert pinned(TAG, built, OLD) is None


def test_a_derived_image_is_pinned_by_what_it_was_made_of():
    made = Image("sha256:" + "0" * 64, (), made_of=OLD)
    assert pin(TAG, made) == OLD
    assert pinned(TAG, made, OLD) == made.image_id
    assert pinned(TAG, made, NEW) is None


def test_a_pulled_image_is_pinned_by_its_digest_and_another_one_by_its_id():
    assert pin(TAG, image(f"flwr/superlink@{OLD}")) == OLD
    assert pin(TAG, image()) == image().image_id


def test_a_lock_that_was_written_is_read_as_the_same():
    rows = {TAG: OLD, "flower-agent/superexec:1.25.0-sklearn": NEW}
    assert parse_lock(dump_lock(rows)) == rows


def test_baked_apps_stand_beside_the_images_and_are_read_back():
    needs = AppNeeds("https://git.example.org/app@v1", "c" * 40, "me/mine 1.0", ("tabulate",))
    data = dump_lock({TAG: NEW}, {needs.source: needs})
    assert (parse_lock(data), parse_apps(data)) == ({TAG: NEW}, {needs.source: needs})
    assert parse_apps(dump_lock({TAG: NEW})) == parse_apps(None) == {}


@pytest.mark.parametrize("apps", ["{}", "[1]", "[{}]", '[{"source": "a"}]'])
def test_anything_else_is_no_list_of_apps(apps):
    with pytest.raises(ValueError, match="want "):
        parse_apps(f'{{"images": {{}}, "apps": {apps}}}'.encode())


# Why a pull failed, in the words of Docker and of registries, and what to do

HUB = (
    "toomanyrequests: You have reached your unauthenticated pull rate limit. "
    "https://www.docker.com/increase-rate-limit"
)
ARM = "no matching manifest for linux/arm64/v8 in the manifest list entries: not found"
PRIVATE = (
    "pull access denied for acme/superlink, repository does not exist or may require "
    "'docker login': denied: requested access to the resource is denied"
)


@pytest.mark.parametrize(
    ("reason", "code", "hints"),
    [
        (HUB, "image.pull", ["FLOWER_REGISTRY_USER", "FLOWER_IMAGE_PREFIX", "flower-agent bake"]),
        ("received unexpected HTTP status: 429 Too Many Requests", "image.pull", ["Docker Hub"]),
        (ARM, "image.architecture", ["processor", "FLOWER_VERSION"]),
        ("no match for platform in manifest: not found", "image.architecture", ["processor"]),
        (PRIVATE, "image.denied", ["FLOWER_REGISTRY_USER", "`docker login` on the VM has no"]),
        ("unauthorized: incorrect username or password", "image.denied", ["REGISTRY_PASSWORD."]),
        ("manifest unknown: manifest unknown", "image.denied", ["there is no such image"]),
        (
            "x509: certificate signed by unknown authority",
            "image.pull",
            ["/etc/docker/certs.d/"],
        ),
        ("dial tcp: lookup registry.invalid: no such host", "image.pull", ["flower-agent doctor"]),
    ],
)
def test_each_reason_of_a_failed_pull_has_its_own_words(reason, code, hints):
    error = image_references.pull_failure("flwr/superlink:1.25.0", reason)
    assert (error.finding.code, error.retryable) == (code, code == "image.pull")
    assert reason in error.finding.message
    assert [words for words in hints if words not in error.finding.hint] == []
    other = {"image.pull": "check password", "image.architecture": "REGISTRY_PASSWORD"}
    assert other.get(code, "nothing at all") not in error.finding.hint

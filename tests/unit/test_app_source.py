"""CUSTOM_APP_REPO taken apart: what is fetched, what may be shown, what git must never see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.config.types import HEAD, AppSource, parse_app_source

COMMIT = "8ab18fd667ff2a85882cc2463813fe459ee25a4e"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("https://h/team/app.git", AppSource("https://h/team/app.git")),
        ("https://h:8443/app@v1", AppSource("https://h:8443/app", "v1")),
        ("https://h/app@feature/x-1#sub/dir", AppSource("https://h/app", "feature/x-1", "sub/dir")),
        ("https://h/app#sub/", AppSource("https://h/app", HEAD, "sub")),
        ("git://h/app.git@main", AppSource("git://h/app.git", "main")),
        ("ssh://git@h:22/app@main", AppSource("ssh://git@h:22/app", "main")),
        ("git@h:team/app.git@main", AppSource("git@h:team/app.git", "main")),
        (f"https://h/app@{COMMIT}", AppSource("https://h/app", COMMIT)),
    ],
)
def test_a_source_is_url_ref_and_directory(text, want):
    assert parse_app_source(text) == want


def test_a_password_leaves_the_url_and_is_never_shown():
    found = parse_app_source("https://bot:hunter2@h/app@main")
    assert found.url == "https://h/app"
    assert found.login.reveal() == "bot:hunter2"
    assert "hunter2" not in f"{found} {found!r}"
    assert str(found) == "https://h/app@main"


def test_a_lone_token_is_a_user_without_a_password():
    assert parse_app_source("https://token@h/app").login.reveal() == "token:"


def test_only_https_takes_a_password():
    with pytest.raises(ValueError, match="want no password in a URL with ssh"):
        parse_app_source("ssh://git:hunter2@h/app")


@pytest.mark.parametrize(
    "ref", ["+main", "main:evil", "^main", "ma*n", "a~1", "a?b", "a[b]", "-x", "a\\b", "a..b"]
)
def test_a_ref_that_means_more_to_git_than_a_name_is_refused(ref):
    with pytest.raises(ValueError, match="want URL"):
        parse_app_source(f"https://h/app@{ref}")


@pytest.mark.parametrize(
    "text", ["ext::sh -c id", "file:///etc", "http://h/app", "/srv/app", "--upload-pack=x", "https"]
)
def test_what_is_no_url_of_a_remote_is_refused(text):
    with pytest.raises(ValueError, match="want URL"):
        parse_app_source(text)


def test_only_a_whole_commit_never_moves():
    assert parse_app_source(f"https://h/app@{COMMIT}").fixed
    assert not parse_app_source(f"https://h/app@{COMMIT[:12]}").fixed
    assert not parse_app_source("https://h/app").fixed


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_a_value_error(text):
    try:
        found = parse_app_source(text)
    except ValueError:
        return
    assert not found.url.startswith("-")
    assert not found.ref.startswith(("-", "+", "^"))

"""What app processes find in their environment, and what no context may put there."""

import json

import pytest

from flower_agent.config import app_environment, parsing
from flower_agent.flower import container_spec
from flower_agent.runs import app_directories

PROXY = "http://me:p%40ss@proxy.example.org:3128"
EXEC = {"FLOWER_ROLE": "superexec", "FLOWER_APPIO_ADDRESS": "10.0.0.5:9091"}
SHARED = {"FLOWER_VERSION": "1.38.0", "FLOWER_CONTROL_ADDRESS": "10.0.0.9:9093"}
OWNED = (
    "LD_PRELOAD LD_LIBRARY_PATH PYTHONPATH PYTHONSTARTUP FLWR_HOME FLOWER_ROLE PATH HOME IFS "
    "BASH_ENV ENV XDG_DATA_HOME XDG_CACHE_HOME TMPDIR GRPC_PROXY HTTP_PROXY https_proxy ALL_PROXY "
    "NO_PROXY NO_GRPC_PROXY GLIBC_TUNABLES OPENSSL_CONF HF_HOME ld_preload"
)
FREE = (
    "HF_TOKEN WANDB_API_KEY CUDA_VISIBLE_DEVICES OMP_NUM_THREADS TZ HOMEPAGE REQUESTS_CA_BUNDLE "
    "SSL_CERT_FILE HF_HUB_OFFLINE MALLOC_ARENA_MAX _X"
)


def parse(context, config=None):
    return parsing.parse(context, config or {})


def given(role="client", config=None, **context):
    found = parse({"FLOWER_ROLE": role, **context}, config)
    assert found.settings is not None, found.findings
    return found.settings


def finding(**context):
    (found,) = parse({"FLOWER_ROLE": "client", **context}).findings
    return found


def document(found, name=""):
    data = app_environment.document(found, container_spec.appio_hosts(found, "10.0.0.5", name))
    return None if data is None else json.loads(data)


def test_nothing_set_is_no_file():
    assert document(given()) is None
    assert document(given(FLOWER_NO_PROXY="a")) is None


def test_a_variable_keeps_its_name_and_its_value():
    found = given(FLOWER_ENV_HF_TOKEN="hf_1", ONEAPP_FLOWER_ENV_x_Y2="two\nlines 'ä'")
    assert document(found) == {"HF_TOKEN": "hf_1", "x_Y2": "two\nlines 'ä'"}


def test_a_default_of_the_image_is_in_capitals_and_a_context_wins():
    config = {"flower_env_hf_token": "old", "flower_env_wandb_mode": "offline"}
    found = given(config=config, FLOWER_ENV_HF_TOKEN="new")
    assert document(found) == {"HF_TOKEN": "new", "WANDB_MODE": "offline"}


@pytest.mark.parametrize("name", OWNED.split())
def test_a_name_that_somebody_owns_is_refused(name):
    found = finding(**{f"FLOWER_ENV_{name}": "sesame"})
    assert found.code == "env.reserved"
    assert f"FLOWER_ENV_{name}" in found.message
    assert "sesame" not in f"{found.message} {found.hint}"


@pytest.mark.parametrize("name", FREE.split())
def test_other_names_are_the_apps(name):
    assert document(given(**{f"FLOWER_ENV_{name}": "1"})) == {name: "1"}


def test_a_name_that_no_program_reads_and_too_much_text_are_refused():
    found = finding(FLOWER_ENV_2X="1")
    assert (found.code, "FLOWER_ENV_2X" in found.message) == ("setting.invalid", True)
    found = finding(**{f"FLOWER_ENV_X{number}": "x" * 60_000 for number in range(5)})
    assert (found.code, "want at most 262144" in found.message) == ("setting.invalid", True)


def test_a_proxy_stands_in_both_cases_and_loopback_and_appio_are_kept_out():
    found = given("superlink", FLOWER_HTTPS_PROXY=PROXY, FLOWER_NO_PROXY=".example.org 10.0.0.0/8")
    direct = "127.0.0.1,localhost,::1,fl.example.org,.example.org,10.0.0.0/8"
    assert document(found, "fl.example.org") == {
        "HTTPS_PROXY": PROXY,
        "https_proxy": PROXY,
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


@pytest.mark.parametrize(
    ("context", "host"),
    [
        (EXEC, "10.0.0.5"),
        ({"FLOWER_ROLE": "server", **SHARED}, "10.0.0.9"),
        ({"FLOWER_ROLE": "client", "FLOWER_VERSION": "1.34.0"}, "127.0.0.1"),
    ],
)
def test_the_appio_is_dialled_directly_wherever_it_is(context, host):
    found = parse({**context, "FLOWER_HTTP_PROXY": PROXY}).settings
    assert host in document(found)["no_proxy"].split(",")


def test_git_and_pip_get_the_same_and_nothing_without_a_proxy():
    found = app_environment.proxies(given(FLOWER_HTTP_PROXY=PROXY, FLOWER_NO_PROXY="a,b"))
    assert (found.http.reveal(), found.https) == (PROXY, None)
    assert found.no_proxy == "127.0.0.1,localhost,::1,a,b"
    assert set(found.variables()) == {"HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"}
    assert app_environment.proxies(given(FLOWER_NO_PROXY="a")).variables() == {}


@pytest.mark.parametrize(
    "text",
    [
        "http://proxy:3128",
        "http://proxy.example.org:3128/",
        "https://u:p@10.0.0.1:8080",
        PROXY,
        "http://[fd00::5]:3128",
    ],
)
def test_the_url_of_a_proxy_is_taken(text):
    assert given(FLOWER_HTTP_PROXY=text).http_proxy.reveal() == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        "proxy:3128",
        "http://proxy",
        "socks5://proxy:1080",
        "http://u:p@:1",
        "http://p:0",
        "http://p:1/x",
        "http://p:99999",
        "http://a b:1",
        "http://u:p w@h:1",
        "http://h:1\nX",
        "http://[x]:1",
    ],
)
def test_any_other_url_is_refused_and_not_shown(text):
    found = finding(FLOWER_HTTPS_PROXY=text)
    assert found.code == "setting.invalid"
    assert text not in found.message


@pytest.mark.parametrize(
    "text", ["a b,c", "*", ".example.org", "10.0.0.0/8", "fd00::/8", "[::1]:80", "host:80"]
)
def test_what_is_dialled_directly_is_a_list(text):
    found = given(FLOWER_NO_PROXY=text, FLOWER_HTTP_PROXY=PROXY).no_proxy
    assert ",".join(found) == text.replace(" ", ",")


@pytest.mark.parametrize("text", ["a;b", "http://x", "a'b", "$(x)", "10.0.0.0/8/8"])
def test_anything_else_is_not(text):
    found = finding(FLOWER_NO_PROXY=text, FLOWER_HTTP_PROXY=PROXY)
    assert found.code == "setting.invalid"


def test_no_proxy_without_a_proxy_is_a_warning():
    assert finding(FLOWER_NO_PROXY="a").code == "setting.no_effect"


def test_the_status_shows_names_alone():
    found = given(FLOWER_ENV_HF_TOKEN="sesame", FLOWER_HTTPS_PROXY=PROXY)
    assert app_environment.words(found) == "HF_TOKEN, HTTPS_PROXY"


def test_the_file_is_flowers_groups_alone_and_goes_with_the_last_variable(tmp_path):
    path = tmp_path / "state/environment/apps.json"
    assert app_directories.keep(path, b"{}", dry=True)["environment_file"] == str(path)
    assert not path.exists()
    kept = app_directories.keep(path, b"{}", dry=False)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"{}", 0o440)
    assert (path.stat().st_gid, path.parent.stat().st_mode & 0o777) == (49999, 0o750)
    before = path.stat().st_ino
    assert app_directories.keep(path, b"{}", dry=False) == kept
    assert path.stat().st_ino == before
    assert app_directories.keep(path, b"[]", dry=False) != kept
    assert app_directories.keep(path, None, dry=True) == {}
    assert path.exists()
    assert app_directories.keep(path, None, dry=False) == {}
    assert not path.exists()

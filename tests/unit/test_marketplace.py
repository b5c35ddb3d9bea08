"""The Marketplace's files: what OpenNebula and the harness of marketplace-community make of them.

Facts: src/market_mad/remotes/one/monitor and marketplaceapp_ext.rb of OpenNebula 7.4,
lib/community/app_handler.rb of marketplace-community.
"""

import json
import re
import uuid

import jsonschema
import marketplace
import oneflow
import onegate_template
import pytest
import vm_templates
import yaml
import yamllint.config
import yamllint.linter
from template_schema import SCHEMA, checked

from flower_agent import __version__
from flower_agent.config import flower_versions

SIZE = 10 * 1024**3
URL = "https://images.example.org/flower.qcow2"
LINT = """
extends: default
rules:
  line-length: disable
  indentation:
    indent-sequences: whatever
"""
"""Of marketplace-community."""

COMMON = {
    "name", "version", "publisher", "description", "short_description", "tags", "format",
    "creation_time", "os-id", "os-release", "os-arch", "hypervisor", "opennebula_version", "logo",
    "images",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The appliance's folder, written by the command."""
    directory = tmp_path_factory.mktemp("marketplace")
    image = directory / "flower-0.1.0.qcow2"
    image.write_bytes(marketplace.QCOW2 + bytes(20) + SIZE.to_bytes(8, "big") + bytes(480))
    output = directory / "flower"
    given = ["--image-file", str(image), "--url", URL, "--created-at", "1795500000"]
    assert marketplace.main([*given, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def apps(folder):
    """Each app by its name."""
    found = [yaml.safe_load(path.read_text("utf-8")) for path in folder.glob("*-*.yaml")]
    return {app["name"]: app for app in found}


def of_type(apps, kind):
    return {name: app for name, app in apps.items() if app.get("type", "IMAGE") == kind}


def exported(app):
    """Return the text of the VM template that OpenNebula's monitor makes of an app."""
    lines = []
    for key, held in app["opennebula_template"].items():
        for value in held if isinstance(held, list) else [held]:
            if isinstance(value, dict):
                inner = ",".join(f'{k.upper()}="{text}"' for k, text in value.items() if text)
                lines.append(f"{key.upper()} = [ {inner} ]")
            elif value:
                lines.append(f'{key.upper()} = "{value}"')
    return "\n".join(lines)


def exported_service(apps):
    """Return the service template as an export makes it: OpenNebula 6's form, then 7's."""
    app = apps[marketplace.SERVICE]
    template = json.loads(json.dumps(app["opennebula_template"]))
    numbers = {name: number for number, name in enumerate(sorted(set(app["roles"].values())))}
    for role in template["roles"]:
        role["template_id"], role["type"] = numbers[app["roles"][role["name"]]], "vm"
    return template, {number: apps[name] for name, number in numbers.items()}


def test_every_file_passes_the_marketplaces_own_lint(folder):
    config = yamllint.config.YamlLintConfig(LINT)
    for path in folder.rglob("*.yaml"):
        found = yamllint.linter.run(path.read_text("utf-8"), config, str(path))
        assert [problem for problem in found if problem.level == "error"] == []


def test_every_app_has_a_file_named_by_a_uuid_that_stays(folder, apps):
    files = sorted(path.stem for path in folder.glob("*-*.yaml"))
    assert files == sorted(str(uuid.uuid5(marketplace.FAMILY, name)) for name in apps)
    assert len(files) == len(vm_templates.KINDS) + 2


def test_every_app_says_what_the_marketplace_wants_to_know(apps):
    for app in apps.values():
        assert set(app) >= COMMON
        assert app["version"] == f"{__version__}-1-20261124"
        assert app["opennebula_version"] == "7.0, 7.2, 7.4"
        texts = [app[key] for key in COMMON - {"tags", "images", "creation_time"}]
        assert all(isinstance(text, str) for text in texts)


def test_the_image_is_told_as_it_is(apps):
    (app,) = of_type(apps, "IMAGE").values()
    (image,) = app["images"]
    assert (image["size"], image["url"], image["driver"]) == (SIZE, URL, "qcow2")
    assert re.fullmatch("[0-9a-f]{32}", image["checksum"]["md5"])
    assert re.fullmatch("[0-9a-f]{64}", image["checksum"]["sha256"])
    assert "opennebula_template" not in app, "an export of the service would add a VM template"


def test_what_is_no_image_is_refused(tmp_path, capsys):
    path = tmp_path / "raw.img"
    path.write_bytes(bytes(512))
    assert marketplace.main(["--image-file", str(path), "--url", URL]) == 1
    assert "is no QCOW2" in capsys.readouterr().err


def test_the_apps_name_each_other(apps):
    for app in of_type(apps, "VMTEMPLATE").values():
        assert app["disks"] == [*of_type(apps, "IMAGE")]
        assert app["images"] == []
    (service,) = of_type(apps, "SERVICE_TEMPLATE").values()
    assert set(service["roles"].values()) <= set(of_type(apps, "VMTEMPLATE"))
    assert [role["name"] for role in service["opennebula_template"]["roles"]] == [*service["roles"]]
    assert service["images"] == []


def test_apps_are_found_by_name_so_no_name_is_anybodys(apps):
    assert all(name.startswith("Flower Agent ") for name in apps)


def test_a_vm_template_has_texts_alone_and_no_double_quote(apps):
    for app in of_type(apps, "VMTEMPLATE").values():
        for held in app["opennebula_template"].values():
            for value in held if isinstance(held, list) else [held]:
                for text in value.values() if isinstance(value, dict) else [value]:
                    assert isinstance(text, str), "the monitor drops the whole template"
                    assert '"' not in text, "the monitor does not escape it"


@pytest.mark.parametrize("kind", vm_templates.KINDS, ids=lambda kind: kind.name)
def test_an_exported_vm_template_is_the_one_that_was_written(apps, kind):
    text = exported(apps[kind.title.replace("Flower", "Flower Agent")])
    found = onegate_template.merge({}, onegate_template.parse(text))
    cloud = vm_templates.Cloud(image=None)
    wanted = vm_templates.render(vm_templates.attributes(kind, cloud))
    whole = onegate_template.merge({}, onegate_template.parse(wanted))
    for given_by_opennebula in ("NAME", "HYPERVISOR"):
        del whole[given_by_opennebula]
    assert found == whole


def test_an_exported_service_is_one_of_opennebula_7_and_its_vms_would_start(apps, tmp_path, capsys):
    service, templates = exported_service(apps)
    jsonschema.validate(service, SCHEMA)
    values = dict.fromkeys(service["user_inputs"], "")
    oneflow.check(service, values)
    more = oneflow.contents(service, values, {"Federation": "3"})
    for role in service["roles"]:
        text = exported(templates[role["template_id"]])
        base = onegate_template.merge({}, onegate_template.parse(text))
        found = oneflow.boot(oneflow.raw(base, more[role["name"]]), name="vm")
        code, words = checked(found.context, tmp_path, capsys)
        assert words.startswith(
            f"the agent would start as {role['name']} with Flower {flower_versions.DEFAULT}\n"
        )
        assert code == 0


# --- the harness -----------------------------------------------------------------------------


@pytest.fixture
def metadata(folder):
    return yaml.safe_load((folder / "metadata.yaml").read_text("utf-8"))


def parameters(metadata):
    """Return the CONTEXT of the harness's VM, as app_context makes it."""
    told = metadata[":app"][":context"]
    prefix = "ONEAPP_" if told[":prefixed"] is True else ""
    return {f"{prefix}{key.removeprefix(':')}": value for key, value in told[":params"].items()}


def test_the_harness_writes_into_the_appliances_own_folder(folder, metadata):
    name = metadata[":app"][":name"]
    assert name.split("_")[-1] == name == folder.name


def test_no_parameter_gets_its_prefix_twice(metadata):
    assert not [name for name in parameters(metadata) if name.startswith("ONEAPP_ONEAPP_")]


def test_no_parameter_ends_the_text_in_which_it_is_handed_over(metadata):
    for text in parameters(metadata).values():
        assert isinstance(text, str)
        assert not re.search(r"[,\"'$`\\\s]", text)


def test_the_harness_boots_a_superlink_without_a_token(metadata, tmp_path, capsys):
    base = metadata[":one"][":template"]["TEMPLATE"]["CONTEXT"]
    found = oneflow.boot(
        oneflow.raw({"CONTEXT": base}, {"CONTEXT": parameters(metadata)}), name="vm"
    )
    assert "TOKEN" not in found.context
    assert "REPORT_READY" not in found.context
    code, words = checked(found.context, tmp_path, capsys)
    assert code == 0
    assert words.startswith(
        f"the agent would start as superlink with Flower {flower_versions.DEFAULT}\n"
    )


def test_the_context_file_is_the_one_that_the_harness_would_write(folder, metadata):
    name, app = metadata[":app"][":name"], metadata[":app"]
    (entry,) = yaml.safe_load((folder / "context.yaml").read_text("utf-8"))[":tests"].items()
    assert entry[0] == name
    assert entry[1][":image_name"] == f"{name}.{metadata[':infra'][':disk_format']}"
    assert entry[1][":type"] == app[":os"][":type"]
    assert entry[1][":microenvs"] == [f"context-{app[':hypervisor'].lower()}"]


def test_the_harness_runs_every_example(folder):
    listed = yaml.safe_load((folder / "tests.yaml").read_text("utf-8"))
    assert listed == sorted(path.name for path in (folder / "tests").iterdir())


def test_no_example_ends_the_double_quotes_around_its_command(folder):
    for path in (folder / "tests").iterdir():
        commands = re.findall(r"ssh\((['\"])(.*)\1\)", path.read_text("utf-8"))
        assert commands
        assert not [text for _, text in commands if re.search(r"[\"$`\\]", text)]

"""`helm template` takes the values as Kubernetes would have them.

Flower's charts cannot be had, so the chart is the test's: it knows the parameters that Flower's
documentation lists, refuses any other, and makes one pod a release of those that a pod is made of.
"""

import json
import re
import shutil
import subprocess

import helm
import pytest
import yaml
from helm_samples import CHARTS, DATA, TOGETHER, VECTORS, settings_of

from flower_agent.config import flower_versions
from flower_agent.config.types import Role

PART = {Role.SUPERLINK: "superlink", Role.SUPERNODE: "supernode"}
SERVER = {
    "FLOWER_PUBLIC_ADDRESS": "fl.example.org",
    "FLOWER_TLS_SANS": "fl.example.net",
    "FLOWER_LOG_LEVEL": "DEBUG",
    "FLOWER_MEMORY_LIMIT": "8589934592",
    "ML_FRAMEWORK": "sklearn",
    **TOGETHER["FLOWER_REGISTRY_USER"],
    **TOGETHER["FLOWER_NODE_PUBLIC_KEYS"],
}
CLIENT = {
    "FLOWER_NODE_CONFIG": "partition-id=0 num-partitions=2 site=ward-7",
    "FLOWER_IMAGE_PREFIX": "registry.example.org:5000/mirror/flwr",
    "GPU_ENABLED": "YES",
    "FLOWER_MEMORY_LIMIT": "8589934592",
}
POD = """\
{{- $part := .Values.PART }}
apiVersion: v1
kind: Pod
metadata: {name: "{{ .Release.Name }}-PART"}
spec:
  imagePullSecrets: {{ $part.imagePullSecrets | default list | toJson }}
  containers:
{{- range $name, $of := dict "PART" $part "superexec" .Values.superexec }}
{{- if ne (toString $of.enabled) "false" }}
  - name: {{ $name }}
    image: {{ $of.image.registry }}/{{ $of.image.repository }}:{{ $of.image.tag }}
    env: {{ $.Values.global.env | toJson }}
    resources: {{ $of.resources | default dict | toJson }}
    ports:
{{- range $port, $number := $of.containerPorts }}
    - {name: "{{ $port | lower | trunc 15 }}", containerPort: {{ $number }}}
{{- end }}
{{- end }}
{{- end }}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-config"}
data:
{{- range $key, $value := dig "node" "config" dict $part }}
  {{ $key }}: {{ $value | quote }}
{{- end }}
"""


def schema(names):
    """Return the JSON Schema of values that are named in a chart's documentation, and no other."""
    made = {"type": "object", "additionalProperties": False, "properties": {}}
    for name in names:
        at = made
        for word in name.split("."):
            if at.get("additionalProperties") is not False:
                at |= {"type": "object", "additionalProperties": False, "properties": {}}
            at = at["properties"].setdefault(word, {})
    for name in VECTORS:
        at = made
        for word in name.split("."):
            at = at["properties"].get(word, {"properties": {}})
        at.pop("additionalProperties", None)
    return made


@pytest.fixture
def render(tmp_path, missing):
    """Renders values in a role's chart; returns exit code, objects by kind, and complaint."""
    program = shutil.which("helm")
    if program is None:
        missing("no helm: contrib/sandbox/environment.sh --dev")

    def run(role, values):
        chart = tmp_path / CHARTS[role]
        (chart / "templates").mkdir(parents=True)
        about = {"apiVersion": "v2", "name": chart.name, "version": "0.1.0"}
        (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
        known = (DATA / "helm" / f"{chart.name}.txt").read_text().split()
        (chart / "values.schema.json").write_text(json.dumps(schema(known)))
        (chart / "templates/pod.yaml").write_text(POD.replace("PART", PART[role]))
        given = tmp_path / "values.yaml"
        given.write_text(yaml.safe_dump(values, sort_keys=False))
        command = [program, "template", "flower", str(chart), "--values", str(given)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        made = {row["kind"]: row for row in yaml.safe_load_all(done.stdout) if row}
        return done.returncode, made, done.stderr

    return run


@pytest.mark.parametrize(("role", "given"), [(Role.SUPERLINK, SERVER), (Role.SUPERNODE, CLIENT)])
def test_helm_makes_a_pod_of_the_values_that_kubernetes_takes(role, given, render):
    settings = settings_of(role, **given)
    code, made, said = render(role, helm.values(settings))
    assert code == 0, said
    containers = {row["name"]: row for row in made["Pod"]["spec"]["containers"]}
    assert list(containers) == sorted((PART[role], "superexec"))
    for name, container in containers.items():
        image = flower_versions.image(settings.image_prefix, name, settings.version)
        host = "" if "example.org" in settings.image_prefix else "docker.io/"
        suffix = "-sklearn" if name == "superexec" and settings.framework else ""
        assert container["image"] == f"{host}{image}{suffix}"
        assert all(isinstance(row["value"], str) for row in container["env"])
        assert all(0 < row["containerPort"] < 1 << 16 for row in container["ports"] or ())
        for limit in container["resources"].get("limits", {}).values():
            assert re.fullmatch(r"\d+", str(limit)), "no float: Kubernetes refuses 8.6e+09"
    assert containers[PART[role]]["ports"]
    assert containers["superexec"]["resources"]["limits"]


def test_a_nodes_config_keeps_its_types_through_helm(render):
    given = helm.values(settings_of(Role.SUPERNODE, **CLIENT))
    code, made, said = render(Role.SUPERNODE, given)
    assert code == 0, said
    assert made["ConfigMap"]["data"] == {
        "partition-id": "0",
        "num-partitions": "2",
        "site": "ward-7",
    }


def test_without_process_isolation_helm_makes_no_superexec(render):
    given = helm.values(settings_of(Role.SUPERNODE, FLOWER_ISOLATION="subprocess"))
    _, made, _ = render(Role.SUPERNODE, given)
    assert [row["name"] for row in made["Pod"]["spec"]["containers"]] == ["supernode"]


def test_a_value_that_no_chart_knows_is_refused(render):
    given = helm.values(settings_of(Role.SUPERLINK))
    given["superlink"]["fleetPort"] = 9092
    code, _, said = render(Role.SUPERLINK, given)
    assert code != 0
    assert "fleetPort" in said

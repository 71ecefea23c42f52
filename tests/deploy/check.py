#!/usr/bin/env python3
"""Checks what is in deploy/ against the schemas of those who read it.

The chart: Helm's own engine, as a library; what it renders is judged like the manifests, and values that
values.schema.json does not have are refused.

Kubernetes' own kinds: the JSON schemas in the package kubernetes-validate, strict about unknown fields. KServe's kinds:
the models of the package kserve, whose types and names of fields are those of its OpenAPI description. The settings in
the manifests: `reef serve --check`. The unit: `systemd-analyze verify`, where there is one.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import helm_python
import kserve.models
import kubernetes.client.models
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCALARS = {"str": str, "int": int, "float": (int, float), "bool": bool, "object": object}
# Written as texts, numbers or both.
OPEN = {"datetime", "IntOrString", "ResourceQuantity"}


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def model(name):
    """The class of a type of an OpenAPI description."""
    for module in (kserve.models, kubernetes.client.models):
        if hasattr(module, name):
            return getattr(module, name)
    return None


def conforms(value, kind, where):
    """Raises where a value is not of an OpenAPI type, or has a field that it has not."""
    if listed := re.fullmatch(r"[lL]ist\[(.*)\]", kind):
        if not isinstance(value, list):
            raise ValueError(f"{where}: not a list")
        for index, item in enumerate(value):
            conforms(item, listed[1], f"{where}[{index}]")
        return
    if mapped := re.fullmatch(r"[dD]ict[(\[]str, (.*)[)\]]", kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: not a mapping")
        for key, item in value.items():
            conforms(item, mapped[1], f"{where}.{key}")
        return
    if kind in OPEN:
        return
    if kind in SCALARS:
        wrong = isinstance(value, bool) and kind in ("int", "float", "str")
        if wrong or not isinstance(value, SCALARS[kind]):
            raise ValueError(f"{where}: {value!r} is not of type {kind}")
        return
    known = model(kind)
    if known is None:
        raise ValueError(f"{where}: there is no type {kind}")
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not a mapping")
    attributes = {name: attribute for attribute, name in known.attribute_map.items()}
    for key, item in value.items():
        if key not in attributes:
            raise ValueError(f"{where}: {kind} has no field {key}")
        conforms(item, known.openapi_types[attributes[key]], f"{where}.{key}")


def check_kubernetes(path):
    for document in documents(path):
        if "kustomize" in document["apiVersion"]:
            listed = {path.parent / name for name in document["resources"]}
            assert listed == set(path.parent.glob("*.yaml")) - {path}, "the kustomization leaves a file out"
            continue
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def check_kserve(path):
    for document in documents(path):
        version = document["apiVersion"].removeprefix("serving.kserve.io/")
        conforms(document, version[0].upper() + version[1:] + document["kind"], path.name)


CHART_VALUES = {
    "replicas": 3,
    "image": {"repository": "registry.example/reef", "tag": "1.2"},
    "models": {"claim": "robots", "control": "explicit"},
    "cores": 8,
    "memory": "16Gi",
    "drainSeconds": 45,
    "service": {"type": "LoadBalancer", "http": 80},
    "tokens": {"secret": "reef-tokens"},
    "settings": '[client.application]\ntoken_file = "/etc/reef-tokens/application"\n',
    "nodeSelector": {"pool": "real-time"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
}
WRONG_VALUES = [
    {"replicas": "two"}, {"cores": 0}, {"memory": "4 GB"}, {"models": {"control": "sometimes"}}, {"colour": "red"},
    {"models": {"claim": ""}}, {"drainSeconds": -1}, {"service": {"http": 70000}}, {"image": {"repository": 3}},
]


def render(chart, values):
    """The objects of a release, by kind."""
    chart.validate_schema(chart.merge_values(values))
    rendered = chart.render(values, name="night", namespace="robots")
    texts = [text for path, text in rendered.items() if path.endswith(".yaml")]
    objects = [one for text in texts for one in yaml.safe_load_all(text) if one is not None]
    for one in objects:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    return {one["kind"]: one for one in objects}


def check_chart():
    """The settings of the chart's releases, for `reef serve --check`."""
    # A release of every value of its own, and one of none.
    with helm_python.Chart.load(DEPLOY / "helm") as chart:
        plain, full = render(chart, {}), render(chart, CHART_VALUES)
        for values in WRONG_VALUES:
            try:
                chart.validate_schema(chart.merge_values(values))
            except helm_python.HelmError:
                continue
            raise AssertionError(f"the chart takes {values}")
    for objects in (plain, full):
        assert set(objects) == {"ConfigMap", "Deployment", "Service"}, set(objects)
        pod = objects["Deployment"]["spec"]["template"]
        assert objects["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in objects["Service"]["spec"]["ports"]} == ports
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]} == volumes
    spec = full["Deployment"]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert full["Deployment"]["spec"]["replicas"] == 3
    assert container["image"] == "registry.example/reef:1.2"
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "16Gi"} == container["resources"]["requests"]
    assert spec["terminationGracePeriodSeconds"] > 45
    assert {"name": "tokens", "secret": {"secretName": "reef-tokens"}} in spec["volumes"]
    assert full["Service"]["spec"]["ports"][0]["port"] == 80
    return [objects["ConfigMap"]["data"]["reef.toml"] for objects in (plain, full)]


def check_settings(reef, all_settings):
    """The settings of the manifests and of the chart are ones that the server takes."""
    for settings in [documents(DEPLOY / "kubernetes/configmap.yaml")[0]["data"]["reef.toml"], *all_settings]:
        check_settings_of(reef, settings)
    runtime = documents(DEPLOY / "kserve/servingruntime.yaml")[0]["spec"]["containers"][0]["args"]
    known = subprocess.run([reef, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    for flag in (argument for argument in runtime if argument.startswith("--")):
        assert flag + " " in known, f"{flag} of the ServingRuntime is no flag of reef serve"


def check_settings_of(reef, settings):
    tokens = set(re.findall(r"/etc/reef-tokens/(\w+)", settings))
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        subprocess.run([reef, "zoo", "--tiny", "--model", "control", "--out", directory / "models"], check=True)
        for token in tokens:
            (directory / token).write_text("0123456789abcdef" + token + "\n")
        settings = settings.replace("/etc/reef-tokens", str(directory)).replace("/models", str(directory / "models"))
        settings = "http_port = 0\nmetrics_port = 0\n" + settings
        (directory / "reef.toml").write_text(settings)
        command = [reef, "serve", "--check", "--config", directory / "reef.toml"]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        broken = directory / "broken.toml"
        broken.write_text(settings.replace("public", "pubic"))
        command = [reef, "serve", "--check", "--config", broken]
        assert subprocess.run(command, capture_output=True).returncode == 1


def check_unit(reef):
    if shutil.which("systemd-analyze") is None:
        print("no systemd-analyze: the unit is not checked")
        return
    with tempfile.TemporaryDirectory() as directory:
        unit = pathlib.Path(directory) / "reef.service"
        unit.write_text((DEPLOY / "reef.service").read_text().replace("/usr/local/bin/reef", str(reef)))
        command = ["systemd-analyze", "verify", "--man=no", unit]
        said = subprocess.run(command, capture_output=True, text=True)
        about = [line for line in said.stderr.splitlines() if "reef.service" in line]
        assert said.returncode == 0 and not about, said.stderr


def check_the_checks():
    """They see what is wrong."""
    deployment = documents(DEPLOY / "kubernetes/deployment.yaml")[0]
    deployment["spec"]["template"]["spec"]["containers"][0]["prots"] = []
    try:
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError:
        pass
    else:
        raise AssertionError("an unknown field of a deployment is not seen")
    runtime = documents(DEPLOY / "kserve/servingruntime.yaml")[0]
    for change in ({"protocolVersion": ["v2"]}, {"multiModel": "no"}, {"containers": {}}):
        changed = {**runtime, "spec": {**runtime["spec"], **change}}
        try:
            conforms(changed, "V1alpha1ServingRuntime", "changed")
        except ValueError:
            continue
        raise AssertionError(f"{change} is not seen")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reef", type=pathlib.Path, help="the binary; without it only schemas are checked")
    args = parser.parse_args()
    check_the_checks()
    for path in sorted(DEPLOY.glob("kubernetes/*.yaml")):
        check_kubernetes(path)
    for path in sorted(DEPLOY.glob("kserve/*.yaml")):
        check_kserve(path)
    settings = check_chart()
    if args.reef:
        check_settings(args.reef.resolve(), settings)
        check_unit(args.reef.resolve())
    print("deploy: as their readers want it")


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Checks what is in deploy/ against the schemas of those who read it.

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


def check_settings(reef):
    """The settings of the manifests are ones that the server takes."""
    settings = documents(DEPLOY / "kubernetes/configmap.yaml")[0]["data"]["reef.toml"]
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
    runtime = documents(DEPLOY / "kserve/servingruntime.yaml")[0]["spec"]["containers"][0]["args"]
    known = subprocess.run([reef, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    for flag in (argument for argument in runtime if argument.startswith("--")):
        assert flag + " " in known, f"{flag} of the ServingRuntime is no flag of reef serve"


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
    if args.reef:
        check_settings(args.reef.resolve())
        check_unit(args.reef.resolve())
    print("deploy: as their readers want it")


if __name__ == "__main__":
    sys.exit(main())

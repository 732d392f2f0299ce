"""The Kubernetes manifests: against the schemas of the API, against each other, and against the service."""

from itertools import chain

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT
from test_deploy import PINNED, check_command, routes
from test_deploy_images import SERVICES, all_of

from extractor.service.serve import GRACE

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.37")  # the oldest that the README names, and the newest that there are schemas of
NO_MANIFEST = {"kustomization.yaml", "prometheus-adapter.yaml"}
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name not in NO_MANIFEST)
OBJECTS = list(chain.from_iterable(yaml.safe_load_all(path.read_text()) for path in FILES))
FOREIGN = ("monitoring.coreos.com/v1",)  # kinds that are no part of Kubernetes
README = (ROOT / "deploy" / "README.md").read_text()


def of_kind(kind):
    return {o["metadata"]["name"]: o for o in OBJECTS if o["kind"] == kind}


def named(o):
    return f"{o['kind']} {o['metadata']['name']}"


DEPLOYMENTS, NETWORK = of_kind("Deployment"), of_kind("NetworkPolicy")
PODS = {name: d["spec"]["template"] for name, d in DEPLOYMENTS.items()}
CONTAINERS = [c for pod in PODS.values() for k in ("initContainers", "containers") for c in pod["spec"].get(k, ())]


def matches(selector, labels):
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def chosen(selector):
    return [name for name, pod in PODS.items() if matches(selector, pod["metadata"]["labels"])]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", [o for o in OBJECTS if o["apiVersion"] not in FOREIGN], ids=named)
def test_a_manifest_keeps_to_the_schema(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_refuse():
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {"portz": []}}, VERSIONS[0], strict=True
        )


def test_everything_is_applied_under_one_name_each():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in FILES]
    assert kustomization["namespace"] in of_kind("Namespace")
    assert len({named(o) for o in OBJECTS}) == len(OBJECTS)
    assert not any("namespace" in o["metadata"] for o in OBJECTS)


@pytest.mark.parametrize("name", PODS)
def test_pods_are_what_a_restricted_namespace_takes(name):
    spec = PODS[name]["spec"]
    assert DEPLOYMENTS[name]["spec"]["selector"]["matchLabels"] == PODS[name]["metadata"]["labels"]
    assert spec["serviceAccountName"] in of_kind("ServiceAccount") and spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
    (user,) = [r.split(":")[0] for w, r in all_of("web") if w == "USER"][-1:]
    assert str(spec["securityContext"]["runAsUser"]) == user
    volumes = {v["name"]: v for v in spec["volumes"]}
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        allowed = container["securityContext"]
        assert allowed["readOnlyRootFilesystem"] and not allowed["allowPrivilegeEscalation"]
        assert allowed["capabilities"] == {"drop": ["ALL"]}
        assert (
            container["resources"]["requests"].keys() >= {"cpu", "memory"}
            and container["resources"]["limits"]["memory"]
        )
        assert {m["name"] for m in container["volumeMounts"]} <= set(volumes)
        assert PINNED.fullmatch(container["image"])
    claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    assert claims <= set(of_kind("PersistentVolumeClaim"))


def test_images_and_options_are_those_of_the_compose_file():
    images = {container["image"] for container in CONTAINERS}
    assert images == {SERVICES["shelfwise"]["image"], SERVICES["vllm"]["image"]}
    for name, pod in PODS.items():
        if pod["metadata"]["labels"]["app"] == "shelfwise":
            (container,) = pod["spec"]["containers"]
            given, plain = check_command(container["args"]), check_command(SERVICES["shelfwise"]["command"])
            assert given["base_url"] == SERVICES["shelfwise"]["environment"]["SHELFWISE_BASE_URL"], name
            assert f"--served-model-name={given['model']}" in SERVICES["vllm"]["command"]
            assert (given["host"], given["port"]) == (plain["host"], plain["port"])
            assert {m["mountPath"] for m in container["volumeMounts"]} == {"/data", "/tmp"}


def test_probes_ask_for_what_is_answered_and_ports_agree():
    for name, pod in PODS.items():
        (container,) = pod["spec"]["containers"]
        (port,) = container["ports"]
        service = pod["metadata"]["labels"]["app"] == "shelfwise"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == port["name"]
            assert asked["path"] in (routes() if service else {"/health"}), name
        if service:
            assert port["containerPort"] == check_command(container["args"])["port"]
            pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            assert pod["spec"]["terminationGracePeriodSeconds"] > GRACE + pause
    assert PODS["shelfwise-api"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_services_lead_to_pods():
    for name, service in of_kind("Service").items():
        assert chosen({"matchLabels": service["spec"]["selector"]}) == [name]
        (container,) = PODS[name]["spec"]["containers"]
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= {p["name"] for p in container["ports"]}
    (ingress,) = of_kind("Ingress").values()
    hosts = {host for tls in ingress["spec"]["tls"] for host in tls["hosts"]}
    for rule in ingress["spec"]["rules"]:
        assert rule["host"] in hosts  # nothing without TLS
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            ports = of_kind("Service")[backend["name"]]["spec"]["ports"]
            assert backend["port"]["name"] in {port["name"] for port in ports}
            assert path["pathType"] == "Prefix" or path["path"] in routes()
    vllm = of_kind("Service")["vllm"]["spec"]["ports"][0]["port"]
    assert f"//vllm:{vllm}/" in SERVICES["shelfwise"]["environment"]["SHELFWISE_BASE_URL"]


def test_what_scales_and_what_may_be_disrupted():
    for scaler in of_kind("HorizontalPodAutoscaler").values():
        target = DEPLOYMENTS[scaler["spec"]["scaleTargetRef"]["name"]]["spec"]
        assert "replicas" not in target and 2 <= scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]
        assert not any("persistentVolumeClaim" in v for v in target["template"]["spec"]["volumes"])
        spread = target["template"]["spec"]["topologySpreadConstraints"]
        labels = target["template"]["metadata"]["labels"]
        assert all(s["labelSelector"]["matchLabels"] == labels for s in spread)
    for name, budget in of_kind("PodDisruptionBudget").items():
        assert chosen(budget["spec"]["selector"]) == [name]
    for name, deployment in DEPLOYMENTS.items():
        if any("persistentVolumeClaim" in v for v in PODS[name]["spec"]["volumes"]):
            assert deployment["spec"]["replicas"] == 1 and deployment["spec"]["strategy"]["type"] == "Recreate"


def test_secrets_are_named_and_the_page_says_how_they_are_made():
    for container in CONTAINERS:
        for variable in container.get("env", ()):
            secret = any(word in variable["name"] for word in ("KEY", "STORE", "PASSWORD", "TOKEN"))
            assert ("valueFrom" in variable) is secret, variable
            if secret:
                asked = variable["valueFrom"]["secretKeyRef"]
                assert f"create secret generic {asked['name']} " in README and f"={asked['key']}" in README
    assert not of_kind("Secret")


def test_nothing_is_let_through_but_what_is_named():
    (closed,) = [p for p in NETWORK.values() if p["spec"]["podSelector"] == {}]
    assert set(closed["spec"]) == {"podSelector", "policyTypes"}
    for policy in NETWORK.values():
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and chosen(policy["spec"]["podSelector"])
        rules = [*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())]
        for peer in (p for rule in rules for p in rule.get("from", rule.get("to", ()))):
            assert "podSelector" not in peer or chosen(peer["podSelector"]), peer
    assert "egress" not in NETWORK["vllm"]["spec"]


def test_monitors_find_services_and_have_a_key():
    for name, monitor in of_kind("ServiceMonitor").items():
        found = [
            s for s in of_kind("Service").values() if matches(monitor["spec"]["selector"], s["metadata"]["labels"])
        ]
        assert found
        (endpoint,) = monitor["spec"]["endpoints"]
        assert all(endpoint["port"] in {p["name"] for p in s["spec"]["ports"]} for s in found)
        if name == "shelfwise":
            assert endpoint["path"] in routes() and endpoint["authorization"]["type"] == "Bearer"
            key = endpoint["authorization"]["credentials"]
            assert f"create secret generic {key['name']} --from-literal={key['key']}=" in README


def test_the_bundled_model_is_put_where_the_server_looks(tmp_path):
    (container,) = PODS["vllm"]["spec"]["initContainers"]
    (server,) = PODS["vllm"]["spec"]["containers"]
    (folder,) = [word.partition("=")[2] for word in server["args"] if word.startswith("--model=")]
    (code,) = container["args"]
    assert f'"{folder}"' in code
    exec(code.replace(folder, str(tmp_path)))  # noqa: S102  # a file of this repository
    assert (tmp_path / "model.safetensors").is_file() and (tmp_path / "chat_template.jinja").is_file()

"""infra/kubernetes against the composition: the same processes, settings and secrets, protected and probed."""

import base64
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.runtime.process import STOP_S_MAX
from headrace.runtime.settings import Settings, load_settings
from headrace.store.blobs.store_url import StoreAccess

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/kubernetes"
COMPOSE: dict[str, dict[str, Any]] = {
    name: service
    for name, service in yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"].items()
    if service.get("build") == "."
}
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
DOCUMENTS: list[dict[str, Any]] = [
    document
    for file in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((FOLDER / file).read_text("utf-8"))
]
ARCHIVE: dict[str, Any] = yaml.safe_load((FOLDER / "archive.yaml").read_text("utf-8"))
WORKLOADS = {
    document["metadata"]["name"].removeprefix("headrace-"): document
    for document in DOCUMENTS
    if document["kind"] in {"Deployment", "Job"}
}
PODS: dict[str, dict[str, Any]] = {
    **{name: workload["spec"]["template"] for name, workload in WORKLOADS.items()},
    "archive": ARCHIVE["spec"]["jobTemplate"]["spec"]["template"],
}
LASTING = sorted(PODS.keys() - {"init", "archive"})
CONFIG = dict(
    line.split("=", 1)
    for line in (FOLDER / "settings.env").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
)


def container(name: str) -> dict[str, Any]:
    (only,) = PODS[name]["spec"]["containers"]
    return dict(only)


def environment(name: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(name)["env"]}


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in DOCUMENTS if document["kind"] == kind}


def test_every_process_of_the_composition_has_a_workload() -> None:
    assert set(WORKLOADS) == set(COMPOSE)
    for name, workload in WORKLOADS.items():
        assert workload["kind"] == ("Job" if name == "init" else "Deployment")
        assert container(name)["args"] == COMPOSE[name]["command"]
        assert container(name)["image"] == COMPOSE[name]["image"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_nothing_that_it_need_not(name: str) -> None:
    pod = PODS[name]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {mount["mountPath"] for mount in container(name)["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_drain_before_it_is_killed(name: str) -> None:
    assert STOP_S_MAX < PODS[name]["spec"]["terminationGracePeriodSeconds"] == 20


@pytest.mark.parametrize("name", LASTING)
def test_a_process_is_probed_where_it_answers(name: str) -> None:
    only = container(name)
    (health,) = (port for port in only["ports"] if port["name"] == "health")
    assert str(health["containerPort"]) == CONFIG["HEADRACE_HEALTH_PORT"]
    paths = {probe: only[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": {"path": "/livez", "port": "health"},
        "livenessProbe": {"path": "/livez", "port": "health"},
        "readinessProbe": {"path": "/readyz", "port": "health"},
    }
    # The health server answers when the servers do, for which a process waits.
    startup = only["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > Settings(_env_file=None).start_wait_s_max


@pytest.mark.parametrize("name", WORKLOADS)
def test_memory_and_settings_are_those_of_the_composition(name: str) -> None:
    service = COMPOSE[name]
    limit = container(name)["resources"]["limits"]["memory"]
    assert limit.removesuffix("i").lower() == service["mem_limit"]
    shared = set(CONFIG)
    assert environment(name) == {key: value for key, value in service["environment"].items() if key not in shared}
    assert set(CONFIG) >= {key for key in COMPOSE["relay"]["environment"] if key not in environment("relay")}


def secret_files(name: str) -> dict[str, str]:
    (generator,) = (entry for entry in KUSTOMIZATION["secretGenerator"] if entry["name"] == f"headrace-{name}")
    return {key: path.removeprefix("secrets/") for key, path in (file.split("=") for file in generator["files"])}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_has_its_own_secrets_as_files_and_no_others(name: str) -> None:
    assert secret_files(name) == {secret["target"]: secret["source"] for secret in COMPOSE[name].get("secrets", [])}
    (volume,) = (volume for volume in PODS[name]["spec"]["volumes"] if "secret" in volume)
    assert volume["secret"] == {"secretName": f"headrace-{name}", "defaultMode": 0o440}
    (mount,) = (mount for mount in container(name)["volumeMounts"] if mount["name"] == volume["name"])
    assert (mount["mountPath"], mount["readOnly"]) == (CONFIG["HEADRACE_SECRETS_DIR"], True)
    assert container(name)["envFrom"] == [{"configMapRef": {"name": "headrace"}}]
    assert not re.search(r"secretKeyRef|secretRef", str(PODS[name]))


def test_the_archive_has_the_rights_of_maintenance() -> None:
    assert environment("archive") == environment("maintenance")
    assert PODS["archive"]["spec"]["volumes"] == PODS["maintenance"]["spec"]["volumes"]


def test_the_shared_settings_are_valid_encrypted_and_hold_no_secret(tmp_path: Path) -> None:
    given = {name.removeprefix("HEADRACE_").lower(): value for name, value in CONFIG.items()}
    assert given.keys() <= set(Settings.model_fields)
    authority = tmp_path / "ca.pem"
    authority.write_text("")
    named = {name: value.replace("/etc/headrace/ca/ca.pem", str(authority)) for name, value in given.items()}
    settings = load_settings(_env_file=None, **named | {"secrets_dir": ""})
    from headrace.runtime.plain_text import plain_text

    assert plain_text(settings) == []
    assert StoreAccess.of(settings).ca_file == str(authority)
    assert not [name for name in given if re.search(r"password|secret_key|_secret$|admin_key", name)]


def ports(rules: list[dict[str, Any]]) -> set[int]:
    return {port["port"] for rule in rules for port in rule["ports"]}


def reached_by(name: str) -> set[int]:
    """The ports to which the policies let a process connect."""
    allowed: set[int] = set()
    for policy in of_kind("NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        assert selector["matchLabels"] == {"app.kubernetes.io/name": "headrace"}
        components = [values for expression in selector.get("matchExpressions", []) for values in expression["values"]]
        if not components or name in components:
            allowed |= ports(policy["spec"]["egress"])
    return allowed


def test_a_process_reaches_only_the_servers_that_it_needs() -> None:
    everywhere = {53, 9093, 9000}
    for name in PODS:
        uses_postgres = "HEADRACE_POSTGRES_USER" in environment(name)
        extra = {"gateway": {6379}, "capture": {554, 322, 8554}}.get(name, set())
        assert reached_by(name) == everywhere | ({5432} if uses_postgres else set()) | extra, name
    every = of_kind("NetworkPolicy")["headrace-all"]["spec"]
    assert every["policyTypes"] == ["Ingress", "Egress"]
    assert ports(every["ingress"]) == {int(CONFIG["HEADRACE_HEALTH_PORT"])}
    named = {
        policy: expression["values"]
        for policy, document in of_kind("NetworkPolicy").items()
        for expression in document["spec"]["podSelector"].get("matchExpressions", [])
    }
    assert {component for components in named.values() for component in components} <= set(PODS)


def test_the_service_and_its_policy_lead_to_the_gateway() -> None:
    (service,) = of_kind("Service").values()
    assert service["spec"]["selector"] == PODS["gateway"]["metadata"]["labels"]
    targets = {port["name"]: port["containerPort"] for port in container("gateway")["ports"]}
    served = {targets[port["targetPort"]] for port in service["spec"]["ports"]}
    given = environment("gateway")
    assert served == {int(given["HEADRACE_GATEWAY_PORT"]), int(given["HEADRACE_GATEWAY_LDO_PORT"])}
    assert ports(of_kind("NetworkPolicy")["headrace-gateway"]["spec"]["ingress"]) == served


def test_labels_select_each_its_own_pods() -> None:
    for name, pod in PODS.items():
        labels = pod["metadata"]["labels"]
        assert labels == {"app.kubernetes.io/name": "headrace", "app.kubernetes.io/component": name}
    for name in LASTING:
        assert WORKLOADS[name]["spec"]["selector"]["matchLabels"] == PODS[name]["metadata"]["labels"]


@pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="no kubectl on this machine; the files were read with PyYAML"
)
def test_kustomize_builds_them_with_secrets_that_restart_who_uses_them(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    (tmp_path / "kubernetes/secrets").mkdir(exist_ok=True)

    def built(content: str) -> dict[tuple[str, str], dict[str, Any]]:
        for name in WORKLOADS:
            for source in secret_files(name).values():
                (tmp_path / "kubernetes/secrets" / source).write_text(f"{content}-{source}\n")
        done = subprocess.run(
            ["kubectl", "kustomize", tmp_path / "kubernetes"], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        documents = yaml.safe_load_all(done.stdout)
        return {(document["kind"], document["metadata"]["name"]): document for document in documents}

    first, second = built("first"), built("second")
    assert {kind for kind, _ in first} == {"ConfigMap", "Deployment", "Job", "NetworkPolicy", "Secret", "Service"}
    assert all(document["metadata"]["namespace"] == "headrace" for document in first.values())
    for made in (first, second):
        pod = made["Deployment", "headrace-relay"]["spec"]["template"]["spec"]
        (volume,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
        assert volume["secretName"].startswith("headrace-relay-")
        data = made["Secret", volume["secretName"]]["data"]
        assert base64.b64decode(data["headrace_postgres_password"]).endswith(b"-postgres_relay_password\n")
    assert not {name for kind, name in first if kind == "Secret"} & {name for kind, name in second if kind == "Secret"}

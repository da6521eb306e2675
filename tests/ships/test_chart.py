"""helm/sluice: linted, rendered and validated without a cluster; what the pods would run is run."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp
import helm_python
import kubernetes_validate
import pytest
import yaml
from support.ports import free_port

from proxy import __version__
from proxy.policy.read import read_policy

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/sluice"
SECRETS = {"files": ["provider-keys", "admin"], "env": {"OPENAI_API_KEY": {"name": "provider-keys", "key": "openai"}}}
VALUES: dict[str, dict[str, Any]] = {
    "gateway": {},
    "gateway with all": {
        "secrets": SECRETS,
        "image": {"digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "podLabels": {"team": "platform"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "gateway": {
            "autoscaling": {"enabled": True, "inFlight": 20},
            "networkPolicy": {
                "enabled": True,
                "from": [{"namespaceSelector": {"matchLabels": {"team": "apps"}}}],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.7/32"}}], "ports": [{"port": 8000, "protocol": "TCP"}]}],
            },
        },
    },
    "gateway with a claim": {"state": {"existingClaim": "books"}, "gateway": {"networkPolicy": {"enabled": True}}},
    "gateway without extras": {"gateway": {"podDisruptionBudget": {"enabled": False}}, "scrape": False},
    "sidecar": {"mode": "sidecar"},
    "sidecar with its demo": {"mode": "sidecar", "demo": {"enabled": True}, "secrets": SECRETS, "ports": {"proxy": 18080, "admin": 19090}},
}
TRICKY = 'version: 1\n# {{ .Values.mode }} $(HOME) ${X} \t "quoted" \'#finops\' off yes 010 ünï\n\n\nguard:\n  ignore: ["*@{{x}}"]\n   \n'


def rendered(values: dict[str, Any], chart: Path = CHART) -> list[dict[str, Any]]:
    with helm_python.Chart.load(str(chart)) as loaded:
        texts = loaded.render(values)
    return [doc for name, text in sorted(texts.items()) if not name.endswith(".txt") for doc in yaml.safe_load_all(text) if doc]


def of_kind(docs: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [doc for doc in docs if doc["kind"] == kind]
    return found


def sluice_in(docs: list[dict[str, Any]]) -> dict[str, Any]:
    """The container of Sluice, wherever it stands."""
    pod = of_kind(docs, "Deployment")["spec"]["template"]["spec"]
    (found,) = [one for one in [*pod.get("initContainers", []), *pod["containers"]] if one["name"] == "sluice"]
    return found


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_linter_of_helm_finds_nothing(values: dict[str, Any]) -> None:
    report = helm_python.lint(str(CHART), values, strict=True)
    assert report["errors"] == []
    assert [one for one in report["messages"] if one["severity"] > 1] == []


@pytest.mark.parametrize("version", ["1.29", "1.31", "1.34"])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_object_is_valid_by_the_strict_schema_of_kubernetes(values: dict[str, Any], version: str) -> None:
    docs = rendered(values)
    assert docs
    for doc in docs:
        kubernetes_validate.validate(doc, version, strict=True)


def test_the_strict_schema_would_see_a_misspelt_field() -> None:
    doc = of_kind(rendered({}), "Deployment")
    doc["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(doc, "1.31", strict=True)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({}, ["ConfigMap", "Deployment", "PodDisruptionBudget", "Service"]),
        (
            VALUES["gateway with all"],
            ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service"],
        ),
        ({"mode": "sidecar"}, ["ConfigMap"]),
        (VALUES["sidecar with its demo"], ["ConfigMap", "Deployment"]),
    ],
)
def test_each_mode_makes_its_objects_and_no_other(values: dict[str, Any], kinds: list[str]) -> None:
    assert sorted(doc["kind"] for doc in rendered(values)) == kinds


POLICIES = {file.stem: file.read_text() for file in sorted((ROOT / "config/examples").glob("*.yaml"))}
POLICIES |= {"default": (ROOT / "config/policy.yaml").read_text(), "tricky": TRICKY}


@pytest.mark.parametrize("text", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("mode", ["gateway", "sidecar"])
def test_a_policy_arrives_byte_for_byte(mode: str, text: str) -> None:
    config = of_kind(rendered({"mode": mode, "policy": text}), "ConfigMap")
    assert config["data"] == {"policy.yaml": text}


@pytest.mark.parametrize(
    "values",
    [
        {"policy": {"version": 1}},
        {"polcy": "version: 1"},
        {"policy": ""},
        {"mode": "both"},
        {"ports": {"proxy": 0, "admin": 9090}},
        {"secrets": {"env": {"OPENAI_API_KEY": "sk-inline"}}},
        {"gateway": {"replica": 2}},
        {"state": {"existingClaim": "books"}, "gateway": {"replicas": 2}},
        {"state": {"existingClaim": "books"}, "gateway": {"autoscaling": {"enabled": True}}},
    ],
    ids=lambda values: str(values)[:60],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        rendered(values)


@pytest.mark.parametrize("name", ["gateway", "gateway with all", "gateway with a claim", "sidecar with its demo"])
def test_the_container_of_sluice_is_hardened(name: str) -> None:
    docs = rendered(VALUES[name])
    pod, container = of_kind(docs, "Deployment")["spec"]["template"]["spec"], sluice_in(docs)
    security = container["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] >= 10000
    assert security["readOnlyRootFilesystem"] is True and security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]} and security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False and "shareProcessNamespace" not in pod
    assert "cpu" not in container["resources"]["limits"] and container["resources"]["limits"]["memory"]
    written = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert written == ["/var/lib/sluice"]
    assert not any("subPath" in mount for mount in container["volumeMounts"])
    assert not any("value" in one for one in container.get("env", []))


@pytest.mark.parametrize("name", ["gateway", "sidecar with its demo"])
def test_streams_have_the_time_to_finish(name: str) -> None:
    docs = rendered(VALUES[name])
    pod, container = of_kind(docs, "Deployment")["spec"]["template"]["spec"], sluice_in(docs)
    stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert pod["terminationGracePeriodSeconds"] >= 600 + int(stop[1]) + 30
    assert (name == "gateway") == ("lifecycle" in container)  # a sidecar's preStop would run while the application still calls


def test_the_sidecar_is_a_native_one_that_only_the_pod_reaches() -> None:
    docs = rendered(VALUES["sidecar with its demo"])
    pod = of_kind(docs, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["initContainers"]
    assert container["restartPolicy"] == "Always" and "startupProbe" in container
    assert "--listen=127.0.0.1:18080" in container["args"] and "--admin=0.0.0.0:19090" in container["args"]
    (app,) = pod["containers"]
    env = {one["name"]: one["value"] for one in app["env"]}
    assert env["OPENAI_BASE_URL"] == "http://127.0.0.1:18080/openai/v1"
    assert "127.0.0.1" in env["NO_PROXY"]


def test_a_service_finds_the_pods_of_its_deployment() -> None:
    docs = rendered(VALUES["gateway with all"])
    labels = of_kind(docs, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        of_kind(docs, "Service")["spec"]["selector"],
        of_kind(docs, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(docs, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(docs, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    port = of_kind(docs, "Service")["spec"]["ports"][0]["targetPort"]
    assert port in [one["name"] for one in sluice_in(docs)["ports"]]


def test_two_releases_do_not_share_pods() -> None:
    with helm_python.Chart.load(str(CHART)) as chart:
        selectors = []
        for release in ("one", "two"):
            texts = chart.render({}, name=release)
            docs = [doc for name, text in texts.items() if not name.endswith(".txt") for doc in yaml.safe_load_all(text) if doc]
            selectors.append(of_kind(docs, "Deployment")["spec"]["selector"]["matchLabels"])
    assert selectors[0] != selectors[1]


def test_the_metadata_service_of_the_machine_cannot_be_reached() -> None:
    egress = of_kind(rendered(VALUES["gateway with all"]), "NetworkPolicy")["spec"]["egress"]
    blocks = [to["ipBlock"] for rule in egress for to in rule.get("to", []) if to["ipBlock"]["cidr"] == "0.0.0.0/0"]
    assert blocks == [{"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}]


def test_a_replica_is_not_taken_away_sooner_than_the_longest_stream() -> None:
    scaler = of_kind(rendered(VALUES["gateway with all"]), "HorizontalPodAutoscaler")["spec"]
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 600
    assert "replicas" not in of_kind(rendered(VALUES["gateway with all"]), "Deployment")["spec"]


def test_secrets_are_files_that_the_group_of_the_pod_may_read_and_variables_by_reference() -> None:
    docs = rendered(VALUES["gateway with all"])
    pod, container = of_kind(docs, "Deployment")["spec"]["template"]["spec"], sluice_in(docs)
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounts = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
    assert mounts["/etc/sluice/secrets/provider-keys"]["secret"] == {"secretName": "provider-keys", "defaultMode": 0o440}
    assert pod["securityContext"]["fsGroup"] == 10001
    assert container["env"] == [{"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "provider-keys", "key": "openai"}}}]


def test_the_kubernetes_example_finds_each_of_its_secrets_where_the_chart_mounts_them() -> None:
    file = ROOT / "config/examples/kubernetes.yaml"
    values = {"policy": file.read_text(), "secrets": {"files": ["provider-keys"]}}
    mounts = [mount["mountPath"] for mount in sluice_in(rendered(values))["volumeMounts"]]
    wanted = [ref.name for _, ref in read_policy(file).references]
    assert wanted
    assert all(str(Path(name).parent) in mounts for name in wanted)


def test_pods_are_annotated_for_prometheus_with_the_admin_port_unless_told_not_to() -> None:
    meta = of_kind(rendered(VALUES["sidecar with its demo"]), "Deployment")["spec"]["template"]["metadata"]
    assert meta["annotations"]["prometheus.io/port"] == "19090"
    assert "annotations" not in of_kind(rendered(VALUES["gateway without extras"]), "Deployment")["spec"]["template"]["metadata"]


def test_the_chart_is_of_the_same_version_as_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert sluice_in(rendered({}))["image"] == f"sluice:{__version__}"


APP = """\
apiVersion: batch/v1
kind: Job
metadata: {name: app}
spec:
  template:
    spec:
      restartPolicy: Never
      securityContext: {fsGroup: 10001}
      initContainers:
        {{- include "sluice.sidecar" .Subcharts.sluice | nindent 8 }}
      containers:
        - name: app
          image: app
          env:
            {{- include "sluice.appEnv" .Subcharts.sluice | nindent 12 }}
      volumes:
        {{- include "sluice.volumes" .Subcharts.sluice | nindent 8 }}
"""


def test_an_application_includes_the_sidecar_into_a_job_of_its_own(tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "templates").mkdir(parents=True)
    (app / "templates/job.yaml").write_text(APP)
    (app / "Chart.yaml").write_text(
        "apiVersion: v2\nname: app\nversion: 0.1.0\ndependencies: [{name: sluice, version: '>=0.1.0', repository: ''}]\n"
    )
    shutil.copytree(CHART, app / "charts/sluice")
    docs = rendered({"sluice": {"mode": "sidecar", "policy": "version: 1\n", "secrets": SECRETS}}, app)
    for doc in docs:
        kubernetes_validate.validate(doc, "1.31", strict=True)
    pod = of_kind(docs, "Job")["spec"]["template"]["spec"]
    assert [one["name"] for one in pod["initContainers"]] == ["sluice"]
    config = of_kind(docs, "ConfigMap")
    assert pod["volumes"][0] == {"name": "sluice-policy", "configMap": {"name": config["metadata"]["name"]}}
    assert {mount["name"] for mount in pod["initContainers"][0]["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", ["gateway", "sidecar with its demo"])
async def test_what_the_pod_runs_starts_with_the_policy_of_the_chart_and_passes_its_probes(name: str, tmp_path: Path) -> None:
    docs = rendered(VALUES[name])
    container = sluice_in(docs)
    policy = tmp_path / "policy.yaml"
    policy.write_text(of_kind(docs, "ConfigMap")["data"]["policy.yaml"])
    admin = free_port()
    ours = {"--policy": str(policy)}
    assert "--state" not in "".join(container["args"]), "it would take the place of the policy's `state:`"
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}  # the image's is the folder that is mounted
    args = []
    for arg in container["args"]:
        option, is_pair, value = arg.partition("=")
        if option in ("--listen", "--admin"):
            value = f"{value.rpartition(':')[0]}:{admin if option == '--admin' else free_port()}"
        args.append(f"{option}={ours.get(option, value)}" if is_pair else option)
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy", *args, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        async with aiohttp.ClientSession() as session:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                url = f"http://127.0.0.1:{admin}{container[probe]['httpGet']['path']}"
                assert await _answers(session, url, process), (tmp_path / "log").read_text()
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def _answers(session: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process) -> bool:
    for _ in range(200):
        try:
            async with session.get(url) as reply:
                if reply.status == 200:
                    return True
        except aiohttp.ClientError:
            pass
        if process.returncode is not None:
            break
        await asyncio.sleep(0.05)
    return False

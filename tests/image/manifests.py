"""Checks istio/ as rendered by kustomize: each document against the schema of its kind, and the
relations between documents.

Usage: manifests.py KUBECTL. kubernetes-validate strictly checks the core kinds, for the oldest and
the newest supported Kubernetes. istio.schema.json checks Istio's kinds. tests/tests/istio.rs checks
the configurations of plugin and issuer with their own code.
"""

import copy
import json
import re
import subprocess
import sys
import unittest
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

TOP = Path(__file__).resolve().parents[2]
ISTIO = TOP / "istio"
SCHEMAS = json.loads((Path(__file__).parent / "istio.schema.json").read_text())
KUBERNETES = ("1.30", "1.37")  # 1.30: the first with preStop.sleep
KUBECTL = "kubectl"

ISSUER = {
    "Namespace",
    "ServiceAccount",
    "Deployment",
    "Service",
    "ConfigMap",
    "PodDisruptionBudget",
    "NetworkPolicy",
}
ISSUER_MESH = {"PeerAuthentication", "AuthorizationPolicy"}


class Wrong(AssertionError):
    """Raised for a document that an API server would reject; names the document and the mistake."""


def render(folder):
    command = [KUBECTL, "kustomize", ISTIO / folder]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise Wrong(f"istio/{folder}: kustomize failed: {result.stderr.strip()}")
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def of_kind(documents, kind):
    found = [document for document in documents if document["kind"] == kind]
    if len(found) != 1:
        raise Wrong(f"{len(found)} documents of kind {kind}; expected one")
    return found[0]


def check(document):
    """Raises Wrong if the schema of its kind rejects the document."""
    name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
    if "istio.io" in document.get("apiVersion", ""):
        if document["kind"] not in SCHEMAS["$defs"]:
            raise Wrong(f"{name}: istio.schema.json lacks this kind; add it")
        schema = {**SCHEMAS, "$ref": f"#/$defs/{document['kind']}"}
        problems = sorted(jsonschema.Draft202012Validator(schema).iter_errors(document), key=str)
        if problems:
            lines = (f"{name}: {problem.json_path}: {problem.message}" for problem in problems)
            raise Wrong("\n".join(lines))
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(step) for step in error.path)
            raise Wrong(f"{name}: Kubernetes {version}: {where}: {error.message}") from error


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folders = {folder: render(folder) for folder in ("issuer", "issuer-postgres", "filter")}
        # Not part of the rendered folder, because only one of the two kinds may be applied.
        cls.extension = yaml.safe_load((ISTIO / "filter" / "trafficextension.yaml").read_text())

    def test_every_document_matches_its_schema(self):
        kinds = {
            folder: sorted(document["kind"] for document in documents)
            for folder, documents in self.folders.items()
        }
        self.assertEqual(kinds["issuer"], sorted(ISSUER | ISSUER_MESH | {"PersistentVolumeClaim"}))
        self.assertEqual(kinds["issuer-postgres"], sorted(ISSUER | ISSUER_MESH))
        self.assertEqual(kinds["filter"], ["WasmPlugin"])
        for document in [*sum(self.folders.values(), []), self.extension]:
            with self.subTest(kind=document["kind"], name=document["metadata"]["name"]):
                check(document)

    def test_schemas_reject_mistakes(self):
        deployment = of_kind(self.folders["issuer"], "Deployment")
        plugin = of_kind(self.folders["filter"], "WasmPlugin")
        container = ("spec", "template", "spec", "containers", 0)
        spoilt = [
            (deployment, (*container, "readinessprobe"), {}),
            (deployment, (*container, "ports", 0, "containerPort"), "8080"),
            (deployment, ("spec", "replica"), 1),
            (plugin, ("spec", "failStrategy"), "FAIL_CLOSED"),
            (plugin, ("spec", "phase"), "AUTHENTICATION"),
            (plugin, ("spec", "sha256"), "sha256:" + "0" * 64),
            (plugin, ("spec", "pluginconfig"), {}),
            (plugin, ("spec", "pluginConfig"), "text"),
            (self.extension, ("spec", "url"), "oci://registry.example.com/meshseal/filter"),
            (self.extension, ("spec", "wasm", "match"), []),
            (self.extension, ("spec", "phase"), "EXECUTION_PHASE_AUTHN"),
        ]
        for document, path, value in spoilt:
            with self.subTest(path=path):
                changed = copy.deepcopy(document)
                at = changed
                for step in path[:-1]:
                    at = at[step]
                at[path[-1]] = value
                with self.assertRaises(Wrong):
                    check(changed)

    def test_pod_satisfies_restricted_profile(self):
        """The pod satisfies `restricted` of the Pod Security Standards; its root is read-only."""
        for folder in ("issuer", "issuer-postgres"):
            pod = of_kind(self.folders[folder], "Deployment")["spec"]["template"]["spec"]
            self.assertEqual([container["name"] for container in pod["containers"]], ["issuer"])
            security = pod["securityContext"]
            self.assertTrue(security["runAsNonRoot"] and security["runAsUser"] > 0)
            self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"})
            own = pod["containers"][0]["securityContext"]
            expected = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            self.assertEqual(own, expected)
            self.assertFalse(pod["automountServiceAccountToken"])
            self.assertEqual(set(pod) & {"hostNetwork", "hostPID", "hostIPC"}, set())
            allowed = {"configMap", "secret", "persistentVolumeClaim"}
            kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
            self.assertLessEqual(kinds, allowed)

    def test_names_and_labels_match(self):
        for folder in ("issuer", "issuer-postgres"):
            documents = self.folders[folder]
            deployment = of_kind(documents, "Deployment")
            pod = deployment["spec"]["template"]
            labels = pod["metadata"]["labels"]
            self.assertEqual(deployment["spec"]["selector"]["matchLabels"], labels)
            self.assertEqual(of_kind(documents, "Service")["spec"]["selector"], labels)
            policy = of_kind(documents, "NetworkPolicy")["spec"]["podSelector"]
            self.assertEqual(policy["matchLabels"], labels)
            for kind in ("PodDisruptionBudget", "PeerAuthentication", "AuthorizationPolicy"):
                selector = of_kind(documents, kind)["spec"]["selector"]
                self.assertEqual(selector["matchLabels"], labels, kind)
            account = of_kind(documents, "ServiceAccount")["metadata"]["name"]
            self.assertEqual(pod["spec"]["serviceAccountName"], account)
            volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
            mounts = {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
            self.assertEqual(mounts, set(volumes))
            config = of_kind(documents, "ConfigMap")["metadata"]["name"]
            self.assertEqual(volumes["config"]["configMap"]["name"], config)
            for document in documents:
                metadata = document["metadata"]
                self.assertIn("meshseal", (metadata.get("namespace"), metadata["name"]))

    def test_pod_mounts_files_of_issuer(self):
        for folder in ("issuer", "issuer-postgres"):
            documents = self.folders[folder]
            config = yaml.safe_load(of_kind(documents, "ConfigMap")["data"]["issuer.yaml"])
            pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
            container = pod["containers"][0]
            mounts = tuple(mount["mountPath"] + "/" for mount in container["volumeMounts"])
            database = re.findall(r"(?:sqlite:|sslrootcert=)(/[^&]*)", config["database"])
            named = [config["masterKey"]["file"], *database]
            self.assertEqual(len(named), 2)
            for path in named:
                self.assertTrue(path.startswith(mounts), f"{path} is under none of {mounts}")
            self.assertIn("/etc/meshseal/issuer.yaml", container["args"])
            port = container["ports"][0]
            self.assertEqual(config["listen"], f"0.0.0.0:{port['containerPort']}")
            probes = ("readinessProbe", "livenessProbe", "startupProbe")
            ports = {container[probe]["httpGet"]["port"] for probe in probes}
            self.assertEqual(ports, {port["name"]})

    def test_sqlite_has_one_replica_postgresql_several(self):
        folders = [self.folders[folder] for folder in ("issuer", "issuer-postgres")]
        sqlite, postgres = (of_kind(documents, "Deployment")["spec"] for documents in folders)
        self.assertEqual((sqlite["replicas"], sqlite["strategy"]), (1, {"type": "Recreate"}))
        self.assertGreater(postgres["replicas"], 1)
        self.assertEqual(postgres["strategy"]["type"], "RollingUpdate")
        maps = [of_kind(documents, "ConfigMap")["data"]["issuer.yaml"] for documents in folders]
        configs = [yaml.safe_load(text) for text in maps]
        databases = [config.pop("database") for config in configs]
        self.assertEqual(*configs, "the two issuer.yaml differ in more than the database")
        self.assertTrue(databases[0].startswith("sqlite:"))
        self.assertTrue(databases[1].startswith("postgres://meshseal@"))

    def test_contains_no_secrets_or_foreign_images(self):
        manifest = (TOP / "Cargo.toml").read_text()
        pattern = r'^\[workspace\.package\]\nversion = "(.*)"'
        version = re.search(pattern, manifest, re.MULTILINE)[1]
        for document in [*sum(self.folders.values(), []), self.extension]:
            self.assertNotEqual(document["kind"], "Secret")
            text = json.dumps(document)
            for image in re.findall(r'"(?:image|url)": "(?:oci://)?([^"]*)"', text):
                own = rf"^registry\.example\.com/meshseal/(filter|issuer):{re.escape(version)}$"
                self.assertRegex(image, own)

    def test_both_kinds_configure_the_same_filter(self):
        plugin = dict(of_kind(self.folders["filter"], "WasmPlugin")["spec"])
        extension = dict(self.extension["spec"])
        self.assertEqual(plugin, {**extension.pop("wasm"), **extension})


if __name__ == "__main__":
    KUBECTL = sys.argv.pop(1)
    unittest.main()

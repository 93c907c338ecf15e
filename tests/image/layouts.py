"""Images of small made-up inputs: Istio's agent and a container runtime find their content in them,
and the same inputs always give the same bytes.
"""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "istio" / "image"))
import oci  # noqa: E402

MODULE = b"\0asm\x01\0\0\0" + bytes(range(256)) * 9


def elf(machine=62, interpreter=False):
    """Returns a minimal ELF program: a loadable segment, and optionally an interpreter segment."""
    kinds = [1, 3] if interpreter else [1]
    fields = (2, machine, 1, 0, 64, 0, 0, 64, 56, len(kinds), 0, 0, 0)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", *fields)
    return header + b"".join(struct.pack("<IIQQQQQQ", kind, 0, 0, 0, 0, 0, 0, 0) for kind in kinds)


class Layouts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def lay_out(self, out="image", module=MODULE, program=elf(), **environment):
        (self.folder / "module").write_bytes(module)
        (self.folder / "program").write_bytes(program)
        inputs = ["--version", "1.2.3", "--wasm", "module", "--issuer", "program"]
        command = [sys.executable, TOP / "istio/image/layout.py", *inputs, "--out", out]
        clean = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
        env = {**clean, **environment}
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )

    def read(self, path, out="image"):
        return (self.folder / out / path).read_bytes()

    def manifests(self, name, out="image"):
        """Returns (digest, manifest, config) by tag; checks each blob against its descriptor."""
        found = {}
        for entry in json.loads(self.read(f"{name}/index.json", out))["manifests"]:
            manifest = json.loads(self.blob(name, entry, out))
            config = json.loads(self.blob(name, manifest["config"], out))
            tag = entry["annotations"]["org.opencontainers.image.ref.name"]
            found[tag] = (entry["digest"], manifest, config)
        return found

    def blob(self, name, descriptor, out="image"):
        digest = descriptor["digest"]
        data = self.read(f"{name}/blobs/sha256/" + digest.removeprefix("sha256:"), out)
        self.assertEqual((oci.digest(data), len(data)), (digest, descriptor["size"]))
        return data

    def files(self, out):
        root = self.folder / out
        paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}

    def test_layout_is_reproducible(self):
        self.assertEqual(self.lay_out("one", TZ="UTC").returncode, 0)
        self.assertEqual(self.lay_out("two", TZ="Asia/Tokyo").returncode, 0)
        self.assertEqual(self.files("one"), self.files("two"))
        for name in ("filter", "issuer"):
            _, manifest, config = self.manifests(name, "one")["1.2.3"]
            layer = self.blob(name, manifest["layers"][0], "one")
            self.assertEqual(layer[4:8], b"\0\0\0\0", "gzip contains a time")
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
                self.assertEqual({(member.mtime, member.uname) for member in archive}, {(0, "")})
            self.assertEqual(config["created"], "1970-01-01T00:00:00Z")

    def test_layout_replaces_previous_one(self):
        self.lay_out(module=MODULE + b"old")
        self.lay_out()
        self.lay_out("alone")
        self.assertEqual(self.files("image"), self.files("alone"))

    def test_uses_requested_date(self):
        self.lay_out(SOURCE_DATE_EPOCH="86400")
        _, manifest, config = self.manifests("issuer")["1.2.3"]
        self.assertEqual(config["created"], "1970-01-02T00:00:00Z")
        created = manifest["annotations"]["org.opencontainers.image.created"]
        self.assertEqual(created, "1970-01-02T00:00:00Z")
        for text in ("now", "-1", "1.5", "99999999999"):
            refused = self.lay_out(SOURCE_DATE_EPOCH=text)
            self.assertIn("SOURCE_DATE_EPOCH", refused.stderr)
            self.assertNotEqual(refused.returncode, 0)

    def test_istio_finds_module_in_default_image(self):
        """extractOCIStandardImage requires a last layer of tar+gzip with a file plugin.wasm."""
        self.lay_out()
        _, manifest, config = self.manifests("filter")["1.2.3"]
        layer = manifest["layers"][-1]
        self.assertEqual(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip")
        self.assertNotIn("docker", manifest["mediaType"])
        unpacked = gzip.decompress(self.blob("filter", layer))
        self.assertEqual(config["rootfs"]["diff_ids"], [oci.digest(unpacked)])
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
            self.assertEqual(archive.getnames(), ["plugin.wasm"])
            self.assertEqual(archive.extractfile("plugin.wasm").read(), MODULE)

    def test_istio_finds_module_in_artifact(self):
        """extractOCIArtifactImage requires two layers, one of them the unpacked module."""
        self.lay_out()
        _, manifest, config = self.manifests("filter")["1.2.3-artifact"]
        layers = {layer["mediaType"]: self.blob("filter", layer) for layer in manifest["layers"]}
        self.assertEqual(len(manifest["layers"]), 2)
        self.assertEqual(layers["application/vnd.module.wasm.content.layer.v1+wasm"], MODULE)
        settings = json.loads(layers["application/vnd.module.wasm.config.v1+json"])
        self.assertEqual(settings["type"], "envoy_proxy")
        digests = [layer["digest"] for layer in manifest["layers"]]
        self.assertEqual(config["rootfs"]["diff_ids"], digests)

    def test_issuer_image_is_unprivileged_and_minimal(self):
        self.lay_out()
        _, manifest, config = self.manifests("issuer")["1.2.3"]
        self.assertEqual((config["architecture"], config["os"]), ("amd64", "linux"))
        self.assertEqual(config["config"]["User"], "65532:65532")
        unpacked = gzip.decompress(self.blob("issuer", manifest["layers"][0]))
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
            members = {member.name: (oct(member.mode), member.uid) for member in archive}
            self.assertEqual(archive.extractfile("usr/bin/meshseal").read(), elf())
        state = members.pop("var/lib/meshseal")
        self.assertEqual(state, ("0o700", 65532), "only the issuer may read and write its state")
        self.assertEqual(set(members.values()), {("0o755", 0)}, "it may write nothing else")
        self.assertEqual([name for name in members if name.count("/") == 2], ["usr/bin/meshseal"])
        self.assertIn(config["config"]["Entrypoint"][0].lstrip("/"), members)

    def test_image_has_architecture_of_program(self):
        self.lay_out(program=elf(machine=183))
        self.assertEqual(self.manifests("issuer")["1.2.3"][2]["architecture"], "arm64")

    def test_rejects_unusable_inputs_and_writes_nothing(self):
        refused = {
            "dynamically linked": {"program": elf(interpreter=True)},
            "not a 64-bit": {"program": b"#!/bin/sh\n" + bytes(100)},
            "ELF machine 8": {"program": elf(machine=8)},
            "not a WebAssembly module": {"module": b"\0asm\x0d\0\x01\0 a component"},
        }
        for words, inputs in refused.items():
            with self.subTest(words):
                result = self.lay_out(**inputs)
                self.assertNotEqual(result.returncode, 0)
                self.assertIn(words, result.stderr)
                self.assertFalse((self.folder / "image").exists())

    def test_prints_digests_of_manifests(self):
        printed = self.lay_out().stdout
        digest = self.manifests("filter")["1.2.3"][0].removeprefix("sha256:")
        self.assertIn(f"  sha256: {digest}\n", printed)
        self.assertIn(f"    digest: {self.manifests('issuer')['1.2.3'][0]}\n", printed)
        self.assertIn("oci:image/filter:1.2.3 docker://REGISTRY/meshseal/filter:1.2.3", printed)


if __name__ == "__main__":
    unittest.main()

"""Images on small made-up inputs: what Istio's agent and a container runtime will find in them, and that bytes never vary."""

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
    """The smallest thing that reads as an ELF program with one loadable segment, and one that names a loader if asked."""
    kinds = [1, 3] if interpreter else [1]
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, machine, 1, 0, 64, 0, 0, 64, 56, len(kinds), 0, 0, 0)
    return header + b"".join(struct.pack("<IIQQQQQQ", kind, 0, 0, 0, 0, 0, 0, 0) for kind in kinds)


class Layouts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def lay_out(self, out="image", module=MODULE, program=elf(), **environment):
        (self.folder / "module").write_bytes(module)
        (self.folder / "program").write_bytes(program)
        command = [sys.executable, TOP / "istio/image/layout.py", "--version", "1.2.3", "--wasm", "module", "--issuer", "program", "--out", out]
        clean = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
        return subprocess.run(command, cwd=self.folder, env={**clean, **environment}, capture_output=True, text=True, check=False)

    def read(self, path, out="image"):
        return (self.folder / out / path).read_bytes()

    def manifests(self, name, out="image"):
        """Tag to (digest, manifest, config), each blob checked against its descriptor."""
        found = {}
        for entry in json.loads(self.read(f"{name}/index.json", out))["manifests"]:
            manifest = json.loads(self.blob(name, entry, out))
            config = json.loads(self.blob(name, manifest["config"], out))
            found[entry["annotations"]["org.opencontainers.image.ref.name"]] = (entry["digest"], manifest, config)
        return found

    def blob(self, name, descriptor, out="image"):
        data = self.read(f"{name}/blobs/sha256/" + descriptor["digest"].removeprefix("sha256:"), out)
        self.assertEqual((oci.digest(data), len(data)), (descriptor["digest"], descriptor["size"]))
        return data

    def files(self, out):
        root = self.folder / out
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def test_the_same_input_gives_the_same_bytes_whenever_it_is_laid_out(self):
        self.assertEqual(self.lay_out("one", TZ="UTC").returncode, 0)
        self.assertEqual(self.lay_out("two", TZ="Asia/Tokyo").returncode, 0)
        self.assertEqual(self.files("one"), self.files("two"))
        for name in ("filter", "issuer"):
            _, manifest, config = self.manifests(name, "one")["1.2.3"]
            layer = self.blob(name, manifest["layers"][0], "one")
            self.assertEqual(layer[4:8], b"\0\0\0\0", "gzip holds a time")
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
                self.assertEqual({(member.mtime, member.uname) for member in archive}, {(0, "")})
            self.assertEqual(config["created"], "1970-01-01T00:00:00Z")

    def test_a_layout_replaces_the_one_before(self):
        self.lay_out(module=MODULE + b"old")
        self.lay_out()
        self.lay_out("alone")
        self.assertEqual(self.files("image"), self.files("alone"))

    def test_the_date_is_the_one_that_was_asked_for(self):
        self.lay_out(SOURCE_DATE_EPOCH="86400")
        _, manifest, config = self.manifests("issuer")["1.2.3"]
        self.assertEqual(config["created"], "1970-01-02T00:00:00Z")
        self.assertEqual(manifest["annotations"]["org.opencontainers.image.created"], "1970-01-02T00:00:00Z")
        for text in ("now", "-1", "1.5", "99999999999"):
            refused = self.lay_out(SOURCE_DATE_EPOCH=text)
            self.assertIn("SOURCE_DATE_EPOCH", refused.stderr)
            self.assertNotEqual(refused.returncode, 0)

    def test_istio_finds_the_module_in_the_default_image(self):
        """extractOCIStandardImage: the last layer is tar+gzip and has a file plugin.wasm."""
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

    def test_istio_finds_the_module_in_the_artifact(self):
        """extractOCIArtifactImage: exactly two layers; the one of the content's type is the module as it is."""
        self.lay_out()
        _, manifest, config = self.manifests("filter")["1.2.3-artifact"]
        layers = {layer["mediaType"]: self.blob("filter", layer) for layer in manifest["layers"]}
        self.assertEqual(len(manifest["layers"]), 2)
        self.assertEqual(layers["application/vnd.module.wasm.content.layer.v1+wasm"], MODULE)
        self.assertEqual(json.loads(layers["application/vnd.module.wasm.config.v1+json"])["type"], "envoy_proxy")
        self.assertEqual(config["rootfs"]["diff_ids"], [layer["digest"] for layer in manifest["layers"]])

    def test_the_issuer_runs_as_nobody_in_an_otherwise_empty_image(self):
        self.lay_out()
        _, manifest, config = self.manifests("issuer")["1.2.3"]
        self.assertEqual((config["architecture"], config["os"]), ("amd64", "linux"))
        self.assertEqual(config["config"]["User"], "65532:65532")
        unpacked = gzip.decompress(self.blob("issuer", manifest["layers"][0]))
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
            members = {member.name: (oct(member.mode), member.uid) for member in archive}
            self.assertEqual(archive.extractfile("usr/bin/meshseal").read(), elf())
        self.assertEqual(members.pop("var/lib/meshseal"), ("0o700", 65532), "it may write its state, nobody else may read it")
        self.assertEqual(set(members.values()), {("0o755", 0)}, "and it may write nothing else")
        self.assertEqual([name for name in members if name.count("/") == 2], ["usr/bin/meshseal"])
        self.assertIn(config["config"]["Entrypoint"][0].lstrip("/"), members)

    def test_the_architecture_is_the_programs(self):
        self.lay_out(program=elf(machine=183))
        self.assertEqual(self.manifests("issuer")["1.2.3"][2]["architecture"], "arm64")

    def test_what_could_not_run_is_refused_and_nothing_is_written(self):
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

    def test_the_printed_digests_are_the_manifests(self):
        printed = self.lay_out().stdout
        digest = self.manifests("filter")["1.2.3"][0].removeprefix("sha256:")
        self.assertIn(f"  sha256: {digest}\n", printed)
        self.assertIn(f"    digest: {self.manifests('issuer')['1.2.3'][0]}\n", printed)
        self.assertIn("oci:image/filter:1.2.3 docker://REGISTRY/meshseal/filter:1.2.3", printed)


if __name__ == "__main__":
    unittest.main()

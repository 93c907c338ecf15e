"""Reads OCI layouts with skopeo, pushes them to a registry on loopback and pulls them again; all
digests must stay the same.

Usage: registry.py [FOLDER]. FOLDER contains the layouts filter and issuer; without it, layouts of
made-up inputs are used. Needs skopeo and docker-registry.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import layouts

FOLDER = None


def skopeo(*arguments):
    result = subprocess.run(["skopeo", *arguments], capture_output=True, check=False)
    if result.returncode != 0:
        command = " ".join(map(str, arguments))
        raise AssertionError(f"skopeo {command}: {result.stderr.decode().strip()}")
    return result.stdout


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.work.cleanup)
        cls.folder = FOLDER or cls.made_up()
        cls.start_registry()

    @classmethod
    def made_up(cls):
        work = Path(cls.work.name)
        (work / "module").write_bytes(layouts.MODULE)
        (work / "program").write_bytes(layouts.elf())
        tool = layouts.TOP / "istio/image/layout.py"
        inputs = ["--version", "0.0.0", "--wasm", work / "module", "--issuer", work / "program"]
        command = [sys.executable, tool, *inputs, "--out", work / "image"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return work / "image"

    @classmethod
    def start_registry(cls):
        settings = Path(cls.work.name) / "registry.json"
        settings.write_text(json.dumps({
            "version": "0.1",
            "log": {"accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{cls.work.name}/blobs"}},
            "http": {"addr": "127.0.0.1:0"},
        }))
        command = ["docker-registry", "serve", settings]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        cls.addClassCleanup(lambda: (server.kill(), server.wait(), server.stderr.close()))
        # The registry logs its port, or ends.
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
                cls.address = found[1]
                return
        raise AssertionError("docker-registry did not start:\n" + "".join(lines))

    def images(self):
        for name in ("filter", "issuer"):
            index = json.loads((self.folder / name / "index.json").read_text())
            for entry in index["manifests"]:
                tag = entry["annotations"]["org.opencontainers.image.ref.name"]
                yield name, tag, entry["digest"]

    def test_layouts_contain_expected_images(self):
        names = [(name, "artifact" in tag) for name, tag, _ in self.images()]
        self.assertEqual(names, [("filter", False), ("filter", True), ("issuer", False)])

    def test_skopeo_reads_manifests_with_same_digest(self):
        for name, tag, digest in self.images():
            with self.subTest(name=name, tag=tag):
                manifest = skopeo("inspect", "--raw", f"oci:{self.folder / name}:{tag}")
                self.assertEqual(sha256(manifest), digest)

    def test_registry_returns_pushed_images(self):
        for name, tag, digest in self.images():
            with self.subTest(name=name, tag=tag):
                copy = ["copy", "--preserve-digests"]
                layout = self.folder / name
                remote = f"docker://{self.address}/meshseal/{name}:{tag}"
                skopeo(*copy, "--dest-tls-verify=false", f"oci:{layout}:{tag}", remote)
                pushed = skopeo("inspect", "--raw", "--tls-verify=false", remote)
                self.assertEqual(sha256(pushed), digest)
                # Pull by digest, as WasmPlugin's sha256 and the Deployment do.
                back = Path(f"{self.work.name}/back-{name}-{tag}")
                pinned = f"docker://{self.address}/meshseal/{name}@{digest}"
                skopeo(*copy, "--src-tls-verify=false", pinned, f"oci:{back}:{tag}")
                manifest = json.loads(pushed)
                for descriptor in [{"digest": digest}, manifest["config"], *manifest["layers"]]:
                    path = Path("blobs/sha256") / descriptor["digest"].removeprefix("sha256:")
                    self.assertEqual((back / path).read_bytes(), (layout / path).read_bytes())


if __name__ == "__main__":
    FOLDER = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else None
    unittest.main()

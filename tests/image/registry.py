"""OCI layouts through skopeo: read as they lie, pushed to a registry on loopback, pulled back, digest by digest.

Usage: registry.py [FOLDER], where FOLDER holds the layouts filter and issuer; without it, layouts of made-up inputs. Needs skopeo
and docker-registry.
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
        raise AssertionError(f"skopeo {' '.join(map(str, arguments))}: {result.stderr.decode().strip()}")
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
        subprocess.run([sys.executable, tool, *inputs, "--out", work / "image"], stdout=subprocess.DEVNULL, check=True)
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
        server = subprocess.Popen(["docker-registry", "serve", settings], stderr=subprocess.PIPE, text=True)
        cls.addClassCleanup(lambda: (server.kill(), server.wait(), server.stderr.close()))
        # It says on which port it listens, or ends.
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
                yield name, entry["annotations"]["org.opencontainers.image.ref.name"], entry["digest"]

    def test_there_is_something_to_push(self):
        names = [(name, "artifact" in tag) for name, tag, _ in self.images()]
        self.assertEqual(names, [("filter", False), ("filter", True), ("issuer", False)])

    def test_skopeo_reads_the_manifest_with_the_digest_that_the_layout_names(self):
        for name, tag, digest in self.images():
            with self.subTest(name=name, tag=tag):
                self.assertEqual(sha256(skopeo("inspect", "--raw", f"oci:{self.folder / name}:{tag}")), digest)

    def test_a_registry_gives_back_what_was_pushed(self):
        for name, tag, digest in self.images():
            with self.subTest(name=name, tag=tag):
                remote = f"docker://{self.address}/meshseal/{name}:{tag}"
                skopeo("copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{self.folder / name}:{tag}", remote)
                self.assertEqual(sha256(skopeo("inspect", "--raw", "--tls-verify=false", remote)), digest)
                # By digest, as WasmPlugin's sha256 and the Deployment name it.
                back = f"{self.work.name}/back-{name}-{tag}"
                pinned = f"docker://{self.address}/meshseal/{name}@{digest}"
                skopeo("copy", "--preserve-digests", "--src-tls-verify=false", pinned, f"oci:{back}:{tag}")
                manifest = json.loads((self.folder / name / "blobs/sha256" / digest.removeprefix("sha256:")).read_text())
                for descriptor in [{"digest": digest}, manifest["config"], *manifest["layers"]]:
                    path = Path("blobs/sha256") / descriptor["digest"].removeprefix("sha256:")
                    self.assertEqual((Path(back) / path).read_bytes(), (self.folder / name / path).read_bytes())


if __name__ == "__main__":
    FOLDER = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else None
    unittest.main()

"""Runs the images of `make image` like a pod: only the image, user 65532, istio/'s issuer.yaml.

Usage: built.py FOLDER. Needs root, because it uses chroot instead of a container runtime.
"""

import base64
import io
import json
import os
import re
import secrets
import subprocess
import sys
import tarfile
import tempfile
import unittest
import urllib.error
import urllib.request
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
FOLDER = Path()


def image(name):
    """Returns the config and the unpacked last layer of the first image of a layout."""
    blobs = FOLDER / name / "blobs/sha256"

    def read(descriptor):
        return (blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes()

    index = json.loads((FOLDER / name / "index.json").read_text())
    manifest = json.loads(read(index["manifests"][0]))
    layer = tarfile.open(fileobj=io.BytesIO(read(manifest["layers"][-1])), mode="r:gz")
    return json.loads(read(manifest["config"])), layer


class Built(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        work = tempfile.TemporaryDirectory()
        cls.addClassCleanup(work.cleanup)
        cls.root = Path(work.name)
        cls.root.chmod(0o755)
        cls.config, layer = image("issuer")
        # Python 3.14 drops the owners by default; older versions ignore this attribute.
        layer.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        with layer:
            layer.extractall(cls.root)
        # The files that the Deployment mounts.
        key = cls.root / "run/secrets/meshseal/master.key"
        key.parent.mkdir(parents=True)
        key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
        shipped = (TOP / "istio/issuer/issuer.yaml").read_text()
        cls.shipped = cls.root / "etc/meshseal/issuer.yaml"
        cls.shipped.write_text(shipped)
        # The same configuration, on a free port of loopback.
        here = re.sub(r"(?m)^listen: .*", "listen: 127.0.0.1:0", shipped)
        (cls.root / "etc/meshseal/here.yaml").write_text(here)

    def command(self, *arguments):
        user, entrypoint = self.config["config"]["User"], self.config["config"]["Entrypoint"]
        return ["chroot", f"--userspec={user}", self.root, *entrypoint, *arguments]

    def run_in_image(self, *arguments):
        environment = dict(entry.split("=", 1) for entry in self.config["config"]["Env"])
        chroot = {**environment, "PATH": os.environ["PATH"]}
        command = self.command(*arguments)
        return subprocess.run(command, env=chroot, capture_output=True, text=True, check=False)

    def test_accepts_shipped_configuration(self):
        checked = self.run_in_image("config", "check", "/etc/meshseal/issuer.yaml")
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertIn("ok (issuer configuration)", checked.stdout)

    def test_default_command_exists(self):
        verb, *options = self.config["config"]["Cmd"]
        self.assertIn(options[0], self.run_in_image(verb, "--help").stdout)

    def test_serves_and_prints_unchanged_pins(self):
        pins = self.run_in_image("keys", "pins", "--init", "--config", "/etc/meshseal/here.yaml")
        self.assertEqual(pins.returncode, 0, pins.stderr)
        self.assertEqual(len(json.loads(pins.stdout)["keys"]), 2)
        command = self.command("serve", "--config", "/etc/meshseal/here.yaml")
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().removeprefix("listening on ").strip()
            with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
                self.assertEqual(json.load(answer)["status"], "ready")
            metadata = f"{url}/.well-known/oauth-authorization-server"
            with urllib.request.urlopen(metadata, timeout=10) as answer:
                self.assertEqual(json.load(answer)["issuer"], "https://issuer.example.com")
            # Like `kubectl exec` beside the running server.
            again = self.run_in_image("keys", "pins", "--config", "/etc/meshseal/here.yaml")
            self.assertEqual(again.stdout, pins.stdout)
        finally:
            server.terminate()
            status = server.wait(timeout=20)
            self.assertEqual(status, 0, "SIGTERM must end it with status 0 within the grace period")
            server.stdout.close()

    def test_writes_only_its_state(self):
        before = {path for path in self.root.rglob("*")}
        self.run_in_image("keys", "pins", "--init", "--config", "/etc/meshseal/here.yaml")
        created = set(self.root.rglob("*")) - before
        written = {path.relative_to(self.root).parts[:3] for path in created}
        self.assertLessEqual(written, {("var", "lib", "meshseal")})

    def test_filter_image_contains_built_module(self):
        _, layer = image("filter")
        with layer:
            packed = layer.extractfile("plugin.wasm").read()
        same = packed == (FOLDER.parent / "meshseal.wasm").read_bytes()
        self.assertTrue(same, "target/meshseal.wasm differs from the image; run make image again")

    def test_program_contains_no_local_path(self):
        program = (self.root / "usr/bin/meshseal").read_bytes()
        for path in {str(TOP), str(Path.home()), os.environ.get("CARGO_HOME", str(Path.home()))}:
            self.assertNotIn(path.encode() + b"/", program)


if __name__ == "__main__":
    FOLDER = Path(sys.argv.pop(1)).resolve()
    unittest.main()

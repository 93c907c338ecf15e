"""What `make image` laid out, run as a pod would run it: nothing but the image, as user 65532, with istio/'s own issuer.yaml.

Usage: built.py FOLDER. Needs root, for chroot; there is no container runtime in it.
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
    """The first image of a layout: its config and its unpacked last layer."""
    blobs = FOLDER / name / "blobs/sha256"

    def read(descriptor):
        return (blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes()

    manifest = json.loads(read(json.loads((FOLDER / name / "index.json").read_text())["manifests"][0]))
    return json.loads(read(manifest["config"])), tarfile.open(fileobj=io.BytesIO(read(manifest["layers"][-1])), mode="r:gz")


class Built(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        work = tempfile.TemporaryDirectory()
        cls.addClassCleanup(work.cleanup)
        cls.root = Path(work.name)
        cls.root.chmod(0o755)
        cls.config, layer = image("issuer")
        # Python 3.14 would drop the owners otherwise; older ones do not look at it.
        layer.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        with layer:
            layer.extractall(cls.root)
        # What the Deployment mounts.
        key = cls.root / "run/secrets/meshseal/master.key"
        key.parent.mkdir(parents=True)
        key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
        shipped = (TOP / "istio/issuer/issuer.yaml").read_text()
        cls.shipped = cls.root / "etc/meshseal/issuer.yaml"
        cls.shipped.write_text(shipped)
        # The same, on a free port of loopback.
        (cls.root / "etc/meshseal/here.yaml").write_text(re.sub(r"(?m)^listen: .*", "listen: 127.0.0.1:0", shipped))

    def command(self, *arguments):
        user = self.config["config"]["User"]
        return ["chroot", f"--userspec={user}", self.root, *self.config["config"]["Entrypoint"], *arguments]

    def run_in_image(self, *arguments):
        environment = dict(entry.split("=", 1) for entry in self.config["config"]["Env"])
        chroot = {**environment, "PATH": os.environ["PATH"]}
        return subprocess.run(self.command(*arguments), env=chroot, capture_output=True, text=True, check=False)

    def test_the_shipped_configuration_is_right(self):
        checked = self.run_in_image("config", "check", "/etc/meshseal/issuer.yaml")
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertIn("ok (issuer configuration)", checked.stdout)

    def test_the_default_command_is_one_that_the_program_knows(self):
        verb, *options = self.config["config"]["Cmd"]
        self.assertIn(options[0], self.run_in_image(verb, "--help").stdout)

    def test_it_serves_and_prints_the_same_pins_before_and_meanwhile(self):
        pins = self.run_in_image("keys", "pins", "--init", "--config", "/etc/meshseal/here.yaml")
        self.assertEqual(pins.returncode, 0, pins.stderr)
        self.assertEqual(len(json.loads(pins.stdout)["keys"]), 2)
        server = subprocess.Popen(self.command("serve", "--config", "/etc/meshseal/here.yaml"), stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().removeprefix("listening on ").strip()
            with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
                self.assertEqual(json.load(answer)["status"], "ready")
            with urllib.request.urlopen(f"{url}/.well-known/oauth-authorization-server", timeout=10) as answer:
                self.assertEqual(json.load(answer)["issuer"], "https://issuer.example.com")
            # `kubectl exec` beside the running server.
            self.assertEqual(self.run_in_image("keys", "pins", "--config", "/etc/meshseal/here.yaml").stdout, pins.stdout)
        finally:
            server.terminate()
            self.assertEqual(server.wait(timeout=20), 0, "SIGTERM ends it within the grace period, with status 0")
            server.stdout.close()

    def test_it_writes_its_state_and_nothing_else(self):
        before = {path for path in self.root.rglob("*")}
        self.run_in_image("keys", "pins", "--init", "--config", "/etc/meshseal/here.yaml")
        written = {path.relative_to(self.root).parts[:3] for path in set(self.root.rglob("*")) - before}
        self.assertLessEqual(written, {("var", "lib", "meshseal")})

    def test_the_filter_is_the_module_that_was_built(self):
        _, layer = image("filter")
        with layer:
            packed = layer.extractfile("plugin.wasm").read()
        same = packed == (FOLDER.parent / "meshseal.wasm").read_bytes()
        self.assertTrue(same, "target/meshseal.wasm is another one than the image's; run make image again")

    def test_no_path_of_this_machine_is_inside(self):
        program = (self.root / "usr/bin/meshseal").read_bytes()
        for path in {str(TOP), str(Path.home()), os.environ.get("CARGO_HOME", str(Path.home()))}:
            self.assertNotIn(path.encode() + b"/", program)


if __name__ == "__main__":
    FOLDER = Path(sys.argv.pop(1)).resolve()
    unittest.main()

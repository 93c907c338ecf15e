"""Lays out the filter and the issuer as OCI images: `layout.py --help`. What `make image` runs after it has built both."""

import argparse
import os
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import oci  # noqa: E402  (its bytecode must not be left in the source tree)

# Numeric, so that Kubernetes can check runAsNonRoot. The id that distroless images use for "nonroot".
USER = 65532
WASM_CONFIG_LAYER = "application/vnd.module.wasm.config.v1+json"
WASM_CONTENT_LAYER = "application/vnd.module.wasm.content.layer.v1+wasm"
# ELF machine numbers (e_machine) and OCI's names for them.
ARCHITECTURES = {62: "amd64", 183: "arm64"}


class Unusable(Exception):
    """An input that would make an image that cannot run; the message says what and why."""


def check_wasm(path, module):
    if module[:8] != b"\0asm\x01\0\0\0":
        raise Unusable(f"{path}: not a WebAssembly module (core, version 1); build it with make wasm")


def architecture_of(path, program):
    """OCI's name for what a static 64-bit little-endian ELF program runs on."""
    if len(program) < 64 or program[:6] != b"\x7fELF\x02\x01":
        raise Unusable(f"{path}: not a 64-bit little-endian ELF program")
    machine = struct.unpack_from("<H", program, 18)[0]
    if machine not in ARCHITECTURES:
        raise Unusable(f"{path}: for ELF machine {machine}; known: {sorted(ARCHITECTURES)} (amd64, arm64)")
    headers, size, count = (struct.unpack_from(form, program, at)[0] for form, at in (("<Q", 32), ("<H", 54), ("<H", 56)))
    kinds = [struct.unpack_from("<I", program, headers + size * at)[0] for at in range(count)]
    if 3 in kinds:  # PT_INTERP: wants a dynamic loader, and the image has none
        raise Unusable(f"{path}: dynamically linked, so it cannot run in an empty image; build it for a -linux-musl target")
    return ARCHITECTURES[machine]


def annotations(name, version, epoch):
    return {
        "org.opencontainers.image.created": oci.timestamp(epoch),
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.title": name,
        "org.opencontainers.image.version": version,
    }


def filter_layout(module, version, epoch):
    """Both forms that Istio's agent unpacks (istio/istio pkg/wasm/imagefetcher.go); returns the layout and (tag, digest)s.

    The default is the "compat" image, which the agent tries first and every registry takes: one gzip layer with plugin.wasm.
    The artifact shows the module itself as a layer, so that its digest can be compared; the agent wants exactly two layers.
    """
    layout = oci.Layout()
    config = {"architecture": "wasm", "os": "wasip1", "created": oci.timestamp(epoch), "config": {}}
    notes = annotations("meshseal-filter", version, epoch)
    archive = oci.tar([("plugin.wasm", 0o644, 0, module)], epoch)
    layers = [(oci.LAYER_TAR_GZIP, oci.gzip(archive), archive)]
    compat = layout.image(version, config, layers, {**notes, "module.wasm.image/variant": "compat"})
    runtime = oci.canonical_json({"type": "envoy_proxy", "abiVersions": ["0.2.1"], "config": {"rootIds": [""]}})
    layers = [(WASM_CONFIG_LAYER, runtime, runtime), (WASM_CONTENT_LAYER, module, module)]
    artifact = layout.image(f"{version}-artifact", config, layers, notes)
    return layout, [(version, compat), (f"{version}-artifact", artifact)]


def issuer_layout(program, architecture, version, epoch):
    """An image with nothing but the static program and the folder for its state; returns the layout and (tag, digest)s.

    No authorities' certificates: the program has the public ones built in (webpki-roots), and a database's private one is
    mounted and named with sslrootcert in the database's URL.
    """
    archive = oci.tar(
        [
            ("etc", 0o755, 0, None),
            ("etc/meshseal", 0o755, 0, None),
            ("usr", 0o755, 0, None),
            ("usr/bin", 0o755, 0, None),
            ("usr/bin/meshseal", 0o755, 0, program),
            ("var", 0o755, 0, None),
            ("var/lib", 0o755, 0, None),
            ("var/lib/meshseal", 0o700, USER, None),
        ],
        epoch,
    )
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": oci.timestamp(epoch),
        "config": {
            "User": f"{USER}:{USER}",
            "Entrypoint": ["/usr/bin/meshseal"],
            "Cmd": ["serve", "--config", "/etc/meshseal/issuer.yaml"],
            "Env": ["PATH=/usr/bin"],
            "ExposedPorts": {"8080/tcp": {}},
            "StopSignal": "SIGTERM",
            "WorkingDir": "/var/lib/meshseal",
        },
    }
    layout = oci.Layout()
    layers = [(oci.LAYER_TAR_GZIP, oci.gzip(archive), archive)]
    return layout, [(version, layout.image(version, config, layers, annotations("meshseal-issuer", version, epoch)))]


def report(out, images):
    """What an operator does next."""
    out = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    lines = []
    for name, tags in images:
        lines.append(f"{name}: OCI layout {out / name}")
        lines += [f"  {tag:<16} {image}" for tag, image in tags]
    lines += ["", "Push (REGISTRY is yours; skopeo login REGISTRY first if it asks for it):"]
    for name, tags in images:
        tag = tags[0][0]
        lines.append(f"  skopeo copy --preserve-digests oci:{out / name}:{tag} docker://REGISTRY/meshseal/{name}:{tag}")
    (filter_tag, filter_digest), (_, issuer_digest) = images[0][1][0], images[1][1][0]
    lines += [
        "",
        "istio/filter/wasmplugin.yaml, trafficextension.yaml:",
        f"  url: oci://REGISTRY/meshseal/filter:{filter_tag}",
        f"  sha256: {filter_digest.removeprefix('sha256:')}",
        "istio/issuer/kustomization.yaml:",
        "  images:",
        "  - name: registry.example.com/meshseal/issuer",
        "    newName: REGISTRY/meshseal/issuer",
        f"    digest: {issuer_digest}",
    ]
    return "\n".join(lines)


def epoch_from(environment):
    """SOURCE_DATE_EPOCH, else 0: an image must not depend on when it was made."""
    text = environment.get("SOURCE_DATE_EPOCH") or "0"
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 33):
        raise Unusable(f"SOURCE_DATE_EPOCH={text}: must be whole seconds since 1970; correct or unset it")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description="Lay out the filter and the issuer as OCI images, without a daemon.")
    parser.add_argument("--version", required=True, help="the tag")
    parser.add_argument("--wasm", required=True, type=Path, help="the filter's module, as make wasm leaves it")
    parser.add_argument("--issuer", required=True, type=Path, help="the program meshseal, linked statically")
    parser.add_argument("--out", required=True, type=Path, help="the folder for the layouts filter and issuer")
    arguments = parser.parse_args()
    try:
        epoch = epoch_from(os.environ)
        module, program = arguments.wasm.read_bytes(), arguments.issuer.read_bytes()
        check_wasm(arguments.wasm, module)
        architecture = architecture_of(arguments.issuer, program)
    except (OSError, Unusable) as error:
        sys.exit(f"image: {error}")
    filters, filter_tags = filter_layout(module, arguments.version, epoch)
    issuers, issuer_tags = issuer_layout(program, architecture, arguments.version, epoch)
    arguments.out.mkdir(parents=True, exist_ok=True)
    filters.write(arguments.out / "filter")
    issuers.write(arguments.out / "issuer")
    print(report(arguments.out, [("filter", filter_tags), ("issuer", issuer_tags)]))


if __name__ == "__main__":
    main()

"""OCI image layouts, byte for byte the same for the same input, with nothing but Python's standard library.

Source: OCI image-spec 1.1 (image-layout.md, manifest.md, config.md). A layout is a folder: blobs under their SHA-256 and an
index.json that gives each manifest a tag. Any registry client copies it (skopeo, crane, oras); no daemon has a part in it.
"""

import hashlib
import io
import json
import shutil
import struct
import tarfile
import zlib
from datetime import datetime, timezone
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def timestamp(epoch):
    """RFC 3339, for `created` fields; `epoch` in Unix seconds."""
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def gzip(data):
    """RFC 1952 with a fixed header: Python's own writes what differs between its versions (time, system, level)."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def tar(entries, epoch):
    """A ustar archive. An entry is (path, mode, owner, content); content None makes a folder, owner is user and group."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, mode, owner, content in entries:
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid, info.mtime = mode, owner, owner, epoch
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Layout:
    """A layout under construction; `write` puts it in place of what was there."""

    def __init__(self):
        self._blobs = {}
        self._tags = []

    def blob(self, media_type, data):
        """Keeps a blob; returns its descriptor."""
        self._blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def image(self, tag, config, layers, annotations):
        """Adds an image. A layer is (media type, bytes as they are pulled, bytes as they are unpacked). Returns its digest."""
        config = {**config, "rootfs": {"type": "layers", "diff_ids": [digest(unpacked) for _, _, unpacked in layers]}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(CONFIG, canonical_json(config)),
            "layers": [self.blob(media_type, pulled) for media_type, pulled, _ in layers],
            "annotations": annotations,
        }
        descriptor = self.blob(MANIFEST, canonical_json(manifest))
        platform = {"architecture": config["architecture"], "os": config["os"]}
        named = {"org.opencontainers.image.ref.name": tag}
        self._tags.append({**descriptor, "platform": platform, "annotations": named})
        return descriptor["digest"]

    def write(self, folder):
        folder = Path(folder)
        fresh = folder.with_name(folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        (fresh / "blobs" / "sha256").mkdir(parents=True)
        for name, data in self._blobs.items():
            (fresh / "blobs" / "sha256" / name.removeprefix("sha256:")).write_bytes(data)
        (fresh / "oci-layout").write_bytes(canonical_json({"imageLayoutVersion": "1.0.0"}))
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self._tags}
        (fresh / "index.json").write_bytes(canonical_json(index))
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)

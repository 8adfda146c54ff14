"""Builds src/segdistill/server/assets from npm's onnxruntime-web: for developers, after a change of its version.

    python web/build.py

It needs npm, and an installed onnxruntime for the licences. Nothing else of npm's package is used.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ASSETS = HERE.parent / "src" / "segdistill" / "server" / "assets"
WASM, SCRIPT = "ort-wasm-simd-threaded.wasm", "ort.wasm.bundle.min.mjs"


def installed(folder: Path) -> Path:
    """The package of npm, of the version and hash in the lock file, below `folder`."""
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / name, folder)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder / "node_modules" / "onnxruntime-web"


def build(package: Path, target: Path) -> None:
    """Writes the assets and `assets.json`, which pins each by the hash of its content."""
    import onnxruntime

    version = json.loads((package / "package.json").read_text())["version"]
    contents = {name: (package / "dist" / name).read_bytes() for name in (WASM, SCRIPT)}
    licences = Path(onnxruntime.__file__).parent
    target.mkdir(exist_ok=True)
    for name, content in contents.items():
        (target / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
    shutil.copy(licences / "LICENSE", target / "LICENSE.onnxruntime.txt")
    notices = (licences / "ThirdPartyNotices.txt").read_bytes()
    (target / "ThirdPartyNotices.onnxruntime.txt.gz").write_bytes(gzip.compress(notices, mtime=0))
    pins = {
        "package": "onnxruntime-web",
        "version": version,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    (target / "assets.json").write_text(json.dumps(pins, indent=2) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        build(installed(Path(folder)), ASSETS)

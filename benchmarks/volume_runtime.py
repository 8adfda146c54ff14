"""A CT of 512 x 512 x 300 voxels through the model file of a network of volumes: seconds and peak memory.

`python benchmarks/volume_runtime.py` writes a synthetic CT of 0.8 x 0.8 x 1.5 mm and a `lite_unet` with random weights,
two classes, for a grid of 3 mm, and predicts in a process of its own with two threads: from the file to the written
mask. Random weights mark other voxels than trained ones, and take as long. The figure is seconds, the bar 30; peak
memory has a bar of 2 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from common import log, machine, report
from segdistill.experiment.export import export_network
from segdistill.imaging.grid import VolumePreprocess
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.postprocess import Postprocess
from segdistill.models.registry import create_network
from segdistill.runtime.model_file import ModelInfo

BAR, MEMORY = 30.0, 2000.0
CODE = """
import json, resource, sys, time
from segdistill.runtime.predictor import Predictor
from segdistill.runtime.write import write_volume
model, volume, out, threads = sys.argv[1:]
began = time.perf_counter()
predictor = Predictor(model, int(threads))
found = predictor.predict_volume(volume)
from segdistill.imaging.nifti import save_nifti
from pathlib import Path
save_nifti(found.mask, found.volume, Path(out), found.structures)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
cpu = time.process_time()
print(json.dumps({"seconds": time.perf_counter() - began, "processor_seconds": cpu, "peak_mb": peak}))
"""


def main() -> None:
    """Makes the files, predicts, reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512), help="slices, rows, columns")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        volume, model = Path(folder) / "ct.nii.gz", Path(folder) / "model.onnx"
        _write_ct(volume, tuple(args.shape))
        _write_model(model)
        log("predicting")
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                CODE,
                str(model),
                str(volume),
                str(Path(folder) / "m.nii.gz"),
                str(args.threads),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
    found = json.loads(done.stdout)
    details = {name: round(value, 1) for name, value in found.items()} | {"threads": args.threads}
    holds = found["seconds"] <= BAR and found["peak_mb"] <= MEMORY
    report("volume_runtime", found["seconds"], BAR, holds, details | {"machine": machine()}, args.json)


def _write_ct(path: Path, shape: tuple[int, ...]) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    values = rng.normal(-50, 200, (shape[2], shape[1], shape[0])).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([0.8, 0.8, 1.5, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _write_model(path: Path) -> None:
    torch.manual_seed(0)
    network = create_network("lite_unet", 1, 3, widths=[16, 32, 64, 96], stem=1, dimensions=3)
    classes = ("background", "organ", "tumour")
    preprocess = VolumePreprocess((64, 64, 64), (3.0, 3.0, 3.0), intensity=Intensity("window", -160, 240))
    export_network(network, ModelInfo("ct", 1, classes, preprocess, Postprocess(classes=classes)), path)


if __name__ == "__main__":
    main()

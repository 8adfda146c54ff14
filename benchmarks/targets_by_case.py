"""A student's step with targets by case against the same step without a teacher, in turns in one process.

Images, masks and maps come from a prepared store and are augmented in the step, as on a CPU without spare cores. The
figure is the median time of the student's step over that of the baseline.
"""

from __future__ import annotations

import numpy as np
import torch

from common import alternate, arguments, log, machine, milliseconds, report, scratch, two_cores
from segdistill.data.maps import encode
from segdistill.data.phantom import write_phantom
from segdistill.data.store import prepare_store
from segdistill.data.views import Views
from segdistill.distillation import StoredTeacher, create_method
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.imaging.preprocess import Preprocess
from segdistill.losses import create_loss
from segdistill.models.registry import create_network
from segdistill.training.distillation import Distillation
from segdistill.training.optimisation import choose_precision
from segdistill.training.settings import FitSettings
from segdistill.training.step_time import stepper
from segdistill.training.task import Supervised

BAR = 1.05
CASES = 64


def main() -> None:
    """Times both steps in turns."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="timed steps of each side")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--network", default="simplified_unet", help="of student and baseline")
    args = parser.parse_args()
    two_cores()
    fabric = make_fabric(Machine("cpu"), "auto", args.network)
    with scratch() as folder:
        cases = write_phantom(folder / "images", CASES, size=args.size)
        preprocess = Preprocess((args.size, args.size))
        store = prepare_store(cases, preprocess, folder / "store")
        generator = np.random.default_rng(0)
        maps = np.stack([encode(generator.uniform(0, 1, store.size))[np.newaxis] for _ in range(len(store))])
        hidden = [case.id for case in cases[: 3 * CASES // 4]]
        views = [Views(store, store.ids, preprocess, "light") for _ in range(2)]
        views[1] = Views(store, store.ids, preprocess, "light", without_mask=hidden, masks_share=0.5)
        views[1].maps = {"ensemble": maps}
        torch.manual_seed(0)
        loss = create_loss("cross_entropy_dice")
        baseline = Supervised(create_network(args.network), loss)
        student = Distillation(
            create_network(args.network),
            loss,
            [StoredTeacher("ensemble")],
            torch.tensor([[float(case.id in hidden)] for case in cases]),
            {"soft_mask": (1.0, create_method("soft_mask"))},
        )
        turns = [
            stepper(task, own, FitSettings(), make_fabric(Machine("cpu"), "auto", args.network))
            for task, own in ((baseline, views[0]), (student, views[1]))
        ]
        log(f"{args.rounds} rounds")
        times = [milliseconds(own) for own in alternate(turns, args.rounds, warm_up=6)]
    figure = times[1]["median"] / times[0]["median"]
    details = {"baseline_ms": times[0], "student_ms": times[1]}
    precision = choose_precision("auto", fabric.device, args.network)
    report(
        "targets_by_case", figure, BAR, figure <= BAR, details | {"machine": machine(precision)}, args.json
    )


if __name__ == "__main__":
    main()

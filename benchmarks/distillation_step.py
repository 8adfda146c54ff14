"""One distillation step of ours against the same maths written by hand in plain PyTorch, in turns in one process.

Two ResNet attention U-Nets teach the student at 128x128, batch 8: the losses of lightbtseg, AdamW with one cycle.
The figure is the median time of our step over that of the hand-written one. Both sides begin with the same weights and
see the same batches; their losses must agree.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import alternate, arguments, machine, milliseconds, report, two_cores
from segdistill.distillation import Teacher, create_method
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.losses import create_loss
from segdistill.models.registry import create_network
from segdistill.training.distillation import Distillation
from segdistill.training.loop import Training
from segdistill.training.optimisation import choose_precision
from segdistill.training.settings import FitSettings
from segdistill.training.task import Batch

BAR = 1.05
TOLERANCE = 1e-3
HARD, TEACHER_WEIGHTS = 0.3, (0.5, 0.2)
TOTAL_STEPS = 10_000  # of the schedule: both sides stay in its warm-up


def make_batches(count: int, batch_size: int, size: int) -> list[Batch]:
    """Random images with a bright square each; the square is the reference."""
    made = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        image = torch.rand(batch_size, 1, size, size, generator=generator) * 0.5
        mask = torch.zeros(batch_size, size, size, dtype=torch.long)
        mask[:, size // 4 : size // 2, size // 4 : size // 2] = 1
        image = (image + 0.5 * mask[:, None]).expand(-1, 3, -1, -1).contiguous()
        index, known = torch.arange(batch_size), torch.ones(batch_size, dtype=torch.bool)
        made.append({"image": image, "mask": mask, "index": index, "has_mask": known})
    return made


def our_step(
    student: nn.Module, teachers: list[nn.Module], precision: str, batch_size: int
) -> Callable[[Batch], float]:
    """The training loop's step for one batch."""
    settings = FitSettings()
    fabric = make_fabric(Machine("cpu"), precision)
    autocast = torch.bfloat16 if precision == "bf16" else None
    frozen = [
        Teacher(f"teacher{i}", network, weight, precision=autocast)
        for i, (network, weight) in enumerate(zip(teachers, TEACHER_WEIGHTS, strict=True))
    ]
    task = Distillation(
        student,
        create_loss("weight_balance"),
        frozen,
        torch.tensor(TEACHER_WEIGHTS).repeat(batch_size, 1),
        {"soft_prediction": (1.0, create_method("soft_prediction"))},
        hard_weight=HARD,
    )
    training = Training(task, settings, fabric, TOTAL_STEPS)
    return lambda batch: training.step(iter([batch]))["loss"]


def plain_step(student: nn.Module, teachers: list[nn.Module], precision: str) -> Callable[[Batch], float]:
    """The same step by hand."""
    student.train().to(memory_format=torch.channels_last)
    lr = FitSettings().optimizer.lr
    optimizer = torch.optim.AdamW(student.parameters(), lr, weight_decay=FitSettings().optimizer.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, TOTAL_STEPS, cycle_momentum=False)

    def step(batch: Batch) -> float:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                targets = [teacher(image).logits for teacher in teachers]
            logits = student(image).logits
        loss = plain_loss(logits.float(), [target.float() for target in targets], batch["mask"])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def plain_loss(logits: Tensor, targets: list[Tensor], target: Tensor, epsilon: float = 1e-5) -> Tensor:
    """0.3 (2 cross-entropy + Dice + IoU) + sum of w_j KL(teacher_j || student)."""
    log_student = F.log_softmax(logits, 1)
    student, lesion = log_student[:, 1].exp().flatten(1), target.float().flatten(1)
    overlap, size = (student * lesion).sum(1), lesion.sum(1)
    union = student.sum(1) + size - overlap
    dice = 1 - ((2 * overlap + epsilon) / (student.square().sum(1) + size + epsilon)).mean()
    iou = -((overlap + epsilon) / (union + epsilon)).log().mean()
    total = HARD * (2 * F.nll_loss(log_student, target) + dice + iou)
    for weight, teacher in zip(TEACHER_WEIGHTS, targets, strict=True):
        log_teacher = F.log_softmax(teacher, 1)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
        total = total + weight * divergence.mean()
    return total


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="timed steps of each side")
    parser.add_argument("--depth", type=int, default=18, help="of the teachers' encoders")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    args = parser.parse_args()
    two_cores()
    torch.manual_seed(0)
    chosen = choose_precision(args.precision, torch.device("cpu"))
    precision = "bf16" if chosen == "bf16-mixed" else "fp32"
    teachers = [
        create_network("resnet_attention_unet", depth=args.depth).eval().to(memory_format=torch.channels_last)
        for _ in TEACHER_WEIGHTS
    ]
    student = create_network("simplified_unet")
    batches = make_batches(4, args.batch_size, args.size)
    plain = plain_step(copy.deepcopy(student), teachers, precision)
    ours = our_step(student, teachers, precision, args.batch_size)
    losses: dict[str, list[float]] = {"plain": [], "ours": []}

    def turn(name: str, step: Callable[[Batch], float]) -> Callable[[], None]:
        return lambda: losses[name].append(step(batches[len(losses[name]) % len(batches)]))

    times = alternate([turn("plain", plain), turn("ours", ours)], args.rounds)
    loss = abs(losses["plain"][0] - losses["ours"][0])
    if loss > TOLERANCE:
        raise SystemExit(f"the two sides differ: loss {losses['plain'][0]:.5f} and {losses['ours'][0]:.5f}")
    medians = [milliseconds(part) for part in times]
    ratio = medians[1]["median"] / medians[0]["median"]
    details = {
        "plain_ms": medians[0],
        "ours_ms": medians[1],
        "rounds": args.rounds,
        "first_loss_difference": loss,
        "largest_loss_difference": max(abs(a - b) for a, b in zip(*losses.values(), strict=True)),
        "size": args.size,
        "batch_size": args.batch_size,
        "teacher_depth": args.depth,
        "machine": machine(chosen),
    }
    report(Path(__file__).stem, ratio, BAR, ratio <= BAR, details, args.json)


if __name__ == "__main__":
    main()

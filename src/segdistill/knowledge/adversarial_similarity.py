"""LightVessel's ASD: how wrong a network is, so that a student makes its errors as its teacher does."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge.base import STUDENT, Knowledge, Said
from segdistill.losses import probabilities
from segdistill.models.output import Output
from segdistill.options import fit_option

Form = Literal["image", "pixel"]
EPSILON = 1e-12
"""Inside every root: its slope at zero is bounded."""


def prediction_error(logits: Tensor, target: Tensor) -> Tensor:
    """|p - g| of the foreground at every position: logits (B, C, ...), target (B, ...) -> (B, ...), in float32.

    With more than two classes the foreground is all but class 0.

    >>> import torch
    >>> prediction_error(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])).tolist()
    [[[0.5, 0.5]]]
    """
    return (probabilities(logits)[:, 1:].sum(1) - (target > 0).float()).abs()


def adversarial_similarity_gap(
    student: Tensor, teacher: Tensor, form: Form = "image", one_sided: bool = False
) -> Tensor:
    """Distance between the errors of student and teacher.

    Args:
        student: (B,) root mean squared error for form "image", (B, ...) absolute errors for "pixel".
        teacher: the same of the teacher.
        form: "image" is |e_s - e_t| (LightVessel Eq. 5), "pixel" the root of the mean over positions of (e_s - e_t)^2.
        one_sided: only where the student errs more than the teacher.

    Returns:
        (B,).

    >>> import torch
    >>> adversarial_similarity_gap(torch.tensor([0.1]), torch.tensor([0.3]), one_sided=True).tolist()
    [0.0]
    """
    difference = student - teacher
    if one_sided:
        difference = difference.relu()
    if form == "image":
        return difference.abs()
    return (difference.square().flatten(1).mean(1) + EPSILON).sqrt()


class AdversarialSimilarity(Knowledge):
    """Adversarial similarity distillation (LightVessel, Dang et al. 2023, Eq. 4 and 5); nothing in it is adversarial.

    The distance of Eq. 4 is printed as a sum over the n positions, about 30 for 256 x 256, which swamps a cross-entropy
    of 0.05 and changes with the image's size. Here it is divided by the root of n.

    Args:
        form: "image" compares one number per image (Eq. 4 and 5 literally); "pixel" compares the errors position by
            position, which the text promises ("pixel-wise", "spatial").
        one_sided: leaves a student alone that errs less than its teacher; Eq. 5 would make it worse.

    >>> import torch
    >>> knowledge = AdversarialSimilarity()
    >>> target = torch.ones(1, 4, 4, dtype=torch.long)
    >>> said = knowledge.extract(Output(logits=torch.zeros(1, 2, 4, 4), features={}), target)
    >>> said["error"].tolist()
    [0.5]
    """

    compares = ("one_sided",)

    def __init__(self, form: Form = "image", one_sided: bool = False) -> None:
        fit_option("adversarial_similarity: form", form, Form)
        self.form: Form = form
        self.one_sided = one_sided

    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """(B,) errors of images, or (B, ...) errors of positions."""
        if output.logits is None:
            raise InputError("adversarial_similarity needs a network with logits, not a classifier")
        if target is None:
            raise InputError("adversarial_similarity needs the reference masks of the images")
        error = prediction_error(output.logits, target)
        if self.form == "image":
            error = (error.square().flatten(1).mean(1) + EPSILON).sqrt()
        return {"error": error}

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) distance between the errors."""
        return adversarial_similarity_gap(student["error"], teacher["error"], self.form, self.one_sided)

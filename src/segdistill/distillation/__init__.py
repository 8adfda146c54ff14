"""Knowledge distillation: methods, teachers, and how much each teacher counts."""

from segdistill.distillation.base import (
    METHODS,
    STUDENT,
    Composed,
    DistillationMethod,
    create_method,
    register_method,
)
from segdistill.distillation.teacher import StoredTeacher, Teacher, teacher_weights
from segdistill.distillation.weighting import WEIGHTINGS, Weighting, create_weighting, register_weighting

__all__ = [
    "METHODS",
    "STUDENT",
    "WEIGHTINGS",
    "Composed",
    "DistillationMethod",
    "StoredTeacher",
    "Teacher",
    "Weighting",
    "create_method",
    "create_weighting",
    "register_method",
    "register_weighting",
    "teacher_weights",
]

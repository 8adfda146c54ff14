"""A recipe run: cases, stages, evaluation, report, model file."""

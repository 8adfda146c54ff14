"""How good a prediction is, case by case. No torch."""

"""How good a prediction is. No torch."""

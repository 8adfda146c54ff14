"""How sure a result is: intervals, paired tests, verdicts. No torch."""

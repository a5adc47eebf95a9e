"""Two tiny steps that stand in for the real ones; the recipe's address says what they are to do."""

"""Budgets: what each layer may use of each core."""

"""Preference tuning: rows, batches, weights, losses, the reference, TRL's trainer around them."""

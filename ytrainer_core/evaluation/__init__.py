"""Measuring base and tuned model on the same rows, and judging the difference."""

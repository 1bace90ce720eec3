"""Benchmarks: one file per claim that the README makes, each printing ratios of one run."""

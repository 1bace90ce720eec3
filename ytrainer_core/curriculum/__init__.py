"""Ordering the corpus from easy to hard."""

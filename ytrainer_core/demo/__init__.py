"""Generates everything `ytrainer demo` trains on, so that it needs no download and no file."""

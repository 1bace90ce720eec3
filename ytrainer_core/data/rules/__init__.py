"""The rules about single rows, one file per kind of fault; data/checks.py says which are on."""

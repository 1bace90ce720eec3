"""ytrainer: a corpus goes in, a judged and registered language model comes out."""

__version__ = "0.1.0"

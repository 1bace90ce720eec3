"""The corpus: files of many shapes go in, checked rows and labelled tokens come out."""

from ytrainer_core.data.corpus import Corpus, load_corpus, rewrite_train, write_corpus
from ytrainer_core.data.formats import Rejected, Row, Turn
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.data.reader import read_rows
from ytrainer_core.data.tokenize import Tokenized, mask_segments, tokenize_dataset, tokenize_row

__all__ = [
    "Corpus",
    "Rejected",
    "Row",
    "Tokenized",
    "Turn",
    "load_corpus",
    "mask_segments",
    "prepare_corpus",
    "read_rows",
    "rewrite_train",
    "tokenize_dataset",
    "tokenize_row",
    "write_corpus",
]

"""Kubeflow components: typed shells around the stages, one folder each.

A component adds nothing to its stage. Its parameters have the defaults of the
config fields they stand for (a test compares them: kfp ships a component's source
alone, so the defaults must be literals); everything else goes through `config`.
"""

from ytrainer_core import __version__

IMAGE = f"ytrainer:{__version__}"
"""Image of every component; a release puts its digest in place of the tag."""

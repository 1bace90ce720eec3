#!/bin/sh
# Put packages into the image's venv; runs as root, in a build only.
#   install-packages.sh torch BUILD INDEX   the proved torch: BUILD is +cpu, or empty for CUDA
#   install-packages.sh others              what /opt/build/requirements.txt asks for
#   install-packages.sh builder             what builds a wheel
set -eu

venv=/opt/venv
build=/opt/build
[ -d "$venv" ] || python3 -m venv "$venv"
pip() { "$venv/bin/python" -m pip --no-cache-dir --disable-pip-version-check --quiet "$@"; }

case "$1" in
torch)
    wanted=$(grep '^torch==' "$build/constraints.txt")$2
    if ! pip install -c "$build/constraints.txt" ${3:+--extra-index-url "$3"} "$wanted"; then
        echo "pip could not install $wanted. Where no index has that build, name one that does:" >&2
        echo "--build-arg TORCH_INDEX=ADDRESS, or TORCH_INDEX=ADDRESS make images" >&2
        exit 1
    fi
    ;;
others)
    # The image has no compiler, so wheels only; kfp-server-api is pure Python and has none.
    pip install --only-binary :all: --no-binary kfp-server-api --use-pep517 \
        -c "$build/constraints.txt" -r "$build/requirements.txt"
    ;;
builder)
    pip install 'setuptools>=77' wheel
    ;;
esac

#!/bin/sh
# Install the wheel in /opt/build/wheel, and make the user; runs as root, in a build only.
set -eu

/opt/venv/bin/python -m pip --no-cache-dir --disable-pip-version-check --quiet \
    install --no-deps --no-index /opt/build/wheel/*.whl
rm -rf /opt/build
echo 'ytrainer:x:10001:0:ytrainer:/home/ytrainer:/bin/sh' >> /etc/passwd
mkdir -p /home/ytrainer
chown 10001:0 /home/ytrainer
chmod 0770 /home/ytrainer

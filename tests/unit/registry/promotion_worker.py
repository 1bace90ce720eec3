"""One promoter among several: for every line 'TIME URI' on stdin, promote URI at that moment."""

from __future__ import annotations

import json
import sys
import time

from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.registry import promote


def main(server: str) -> None:
    tracking = TrackingConfig(uri=server)
    print("ready", flush=True)
    for line in sys.stdin:
        moment, uri = line.split()
        time.sleep(max(0.0, float(moment) - time.time()))
        try:
            done = promote(uri, tracking=tracking)
            told = {"won": done.version, "before": done.previous, "changed": done.changed}
        except RegistryError as error:
            told = {"lost": str(error)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

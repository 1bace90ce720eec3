"""Requests to the Kubernetes API from inside a pod, each with a time limit.

They are repeated where it may help: 5xx, refused and cut connections and silence may pass. Other
refusals are told at once. The token is read anew for every request, since the cluster renews it
on the disk.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ytrainer_core.errors import ConfigError, YTrainerError

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token, the certificate and the namespace of its service account."""

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT = 401, 403, 404, 409
_MAY_PASS = (408, 425, 429)
_REQUEST_SECONDS = 30.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 15.0
_SHOWN_CHARACTERS = 500
_BROKEN = (OSError, http.client.HTTPException)  # urllib.error.URLError is an OSError

_REMEDIES = {
    UNAUTHORIZED: "The token of the service account is refused: check that it is mounted",
    FORBIDDEN: "Give the service account a role with create, get and delete on trainjobs, "
    "get and list on pods, and get on pods/log",
    NOT_FOUND: "Check the namespace, and that Kubeflow Trainer 2.2 or later is installed",
}


class KubernetesError(YTrainerError):
    """The Kubernetes API refused, or did not answer for too long. status: its HTTP status or 0."""

    def __init__(self, *faults: str, status: int = 0) -> None:
        super().__init__(*faults)
        self.status = status


class KubernetesApi:
    """One API server and the patience with it.

    account: folder with `token` and `ca.crt`. patience: seconds for which failures that may pass
    are borne in a row. say: told of trouble.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        account: Path = ACCOUNT_FOLDER,
        patience: float = 300.0,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        self.url, self.namespace, self.patience = url.rstrip("/"), namespace, patience
        self._account, self._say = account, say
        certificate = account / "ca.crt"
        self._tls = ssl.create_default_context(cafile=certificate if certificate.exists() else None)

    @classmethod
    def in_cluster(cls, *, account: Path = ACCOUNT_FOLDER, **options: Any) -> KubernetesApi:
        """The API of the cluster in which this pod runs. Raises ConfigError outside of one."""
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{word}") for word in ("HOST", "PORT"))
        namespace = account / "namespace"
        if not host or not namespace.exists():
            raise ConfigError(
                "launch.nodes: several nodes are started from a pod of the cluster, and this is "
                "none. Run the pipeline with --host URL, or set launch.nodes=1."
            )
        bracketed = f"[{host}]" if ":" in host else host
        return cls(
            f"https://{bracketed}:{port or 443}",
            namespace.read_text(encoding="utf-8").strip(),
            account=account,
            **options,
        )

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        """The answer to a request that may be made twice. Raises KubernetesError."""
        began = pause = 0.0
        refused = False
        while True:
            try:
                with self._open(method, path, body, query, _REQUEST_SECONDS) as answer:
                    return dict(json.load(answer))
            except (*_BROKEN, ValueError) as error:
                status = error.code if isinstance(error, urllib.error.HTTPError) else 0
                told = self._told(error)
                if status == UNAUTHORIZED and not refused:
                    refused = True  # the token may just have been renewed
                    continue
                if 0 < status < 500 and status not in _MAY_PASS:
                    remedy = _REMEDIES.get(status, "Correct what it names")
                    raise KubernetesError(
                        f"{method} {path}: {told}. {remedy}.", status=status
                    ) from error
                now = time.monotonic()
                if not began:
                    began = now
                    self._say(f"the Kubernetes API does not answer as it should ({told}); waiting")
                if now - began >= self.patience:
                    raise KubernetesError(
                        f"{method} {path}: no answer for {self.patience:.0f} s ({told}). Check the "
                        "API server, and start again: what runs is found again.",
                        status=status,
                    ) from error
                pause = min(2 * pause or _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
                time.sleep(pause)

    def lines(self, path: str, *, seconds: float, **query: str) -> Iterator[str]:
        """The lines of an answer as they come, e.g. of a log that is followed.

        seconds: of silence after which it is taken for dead. Raises OSError, HTTPException.
        """
        with self._open("GET", path, None, query, seconds) as answer:
            for line in answer:
                yield line.decode("utf-8", "replace").rstrip("\n")

    def _open(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str],
        seconds: float,
    ) -> Any:
        address = f"{self.url}{path}"
        if query:
            address += f"?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, method=method)
        request.add_header("Accept", "application/json, */*")
        token = self._account / "token"
        if token.exists():
            request.add_header("Authorization", f"Bearer {token.read_text().strip()}")
        if body is not None:
            request.data = json.dumps(body).encode()
            kind = "merge-patch+json" if method == "PATCH" else "json"
            request.add_header("Content-Type", f"application/{kind}")
        return urllib.request.urlopen(request, timeout=seconds, context=self._tls)

    def _told(self, error: Exception) -> str:
        """What the server says, in one line; the API's own message where there is one."""
        if not isinstance(error, urllib.error.HTTPError):
            return str(getattr(error, "reason", "") or error or type(error).__name__)
        text = error.read().decode("utf-8", "replace")
        try:
            text = str(json.loads(text)["message"])
        except (ValueError, KeyError, TypeError):
            text = error.reason
        return f"{error.code} {' '.join(text.split())[:_SHOWN_CHARACTERS]}".rstrip(".")

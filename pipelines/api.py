"""Requests to a Kubeflow API (v2beta1), each with a time limit and repeated while that may help.

5xx, refused and cut connections and silence may pass; other refusals are told at once. A refused
token is read anew once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from pipelines.token import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, read_token
from ytrainer_core.errors import ConfigError, TimedOut, YTrainerError

NAMESPACE_VARIABLE = "KFP_NAMESPACE"
"""Environment variable: the namespace of a multi-user Kubeflow."""

CONFLICT = 409
"""Status of an answer: what was to be made is there already."""

_REQUEST_SECONDS = 30.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_MAY_PASS = (408, 425, 429)
_SHOWN_CHARACTERS = 300


class ClusterError(YTrainerError):
    """The Kubeflow API refused, or did not answer for too long. status: its HTTP status or 0."""

    def __init__(self, *faults: str, status: int = 0) -> None:
        super().__init__(*faults)
        self.status = status


class Waiting:
    """Growing pauses until the patience is at its end."""

    def __init__(self, patience: float) -> None:
        self.began = 0.0
        self.was_unauthorized = False
        self._patience, self._pause = patience, _FIRST_PAUSE_SECONDS

    def pause(self) -> bool:
        """Sleep; False, and at once, where the patience is at its end."""
        now = time.monotonic()
        self.began = self.began or now
        left = self.began + self._patience - now
        if left <= 0:
            return False
        time.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        return True


class Api:
    """One server and the patience with it.

    patience: seconds for which failures that may pass are borne in a row. deadline: time
    (monotonic) after which nothing is waited for; a TimedOut is raised then. say: told of trouble.
    client: of kfp_server_api, for its services.
    """

    def __init__(
        self, host: str, *, patience: float, deadline: float, say: Callable[[str], None]
    ) -> None:
        import kfp_server_api

        if not host.startswith(("http://", "https://")):
            raise ConfigError(f"--host {host}: is no URL. Write it as https://HOST[/pipeline].")
        self.host = host.rstrip("/")
        self.patience, self.deadline = patience, deadline
        self._say = say
        self._token = ""
        self._settings = kfp_server_api.Configuration(host=self.host)
        self._settings.retries = False  # urllib3's own would hide from us what went wrong
        self._settings.ssl_ca_cert = os.environ.get("SSL_CERT_FILE")
        self._settings.api_key_prefix["authorization"] = "Bearer"
        self.client = kfp_server_api.ApiClient(self._settings)

    def waiting(self) -> Waiting:
        """The patience with one request."""
        return Waiting(self.patience)

    def ask(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The answer to a request that may be made twice."""
        waiting = self.waiting()
        while True:
            try:
                return self.once(call, *arguments, **named)
            except Exception as error:
                self.bear(error, waiting)

    def once(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The answer to one request, made with the token of this moment."""
        self._token = read_token()
        if self._token:
            self._settings.api_key["authorization"] = self._token
        else:
            self._settings.api_key.pop("authorization", None)
        limits = (_REQUEST_SECONDS, _REQUEST_SECONDS)
        answer = call(*arguments, **named, _request_timeout=limits)
        kind = self.client.last_response.getheader("content-type") or ""
        if "json" not in kind:
            raise ClusterError(
                f"{self.host}: answers with '{kind}' in place of JSON, as a login page does. Give "
                f"the URL of the API itself, and a token as {TOKEN_VARIABLE}."
            )
        return answer

    def bear(self, error: Exception, waiting: Waiting) -> None:
        """Wait a while where the error may pass; else raise it in our words."""
        import urllib3
        from kfp_server_api.exceptions import ApiException

        if isinstance(error.__context__, ApiException):  # its client fell over an empty answer
            error = error.__context__
        if isinstance(error, ApiException):
            status = int(error.status or 0)
            told = self._hidden(f"{status} {error.reason}: {_message(error.body)}".strip(": \n"))
            if status == _UNAUTHORIZED and not waiting.was_unauthorized:
                waiting.was_unauthorized = True  # the token is read anew for the next request
                return
            if status < 500 and status not in _MAY_PASS:
                raise ClusterError(f"{self.host}: {told}. {_remedy(status)}", status=status)
        elif isinstance(error, urllib3.exceptions.HTTPError | OSError):
            status, told = 0, self._hidden(f"{type(error).__name__}: {error}")
        else:
            raise error
        if time.monotonic() >= self.deadline:
            raise TimedOut(f"{self.host}: did not answer before the time was up ({told}).")
        if not waiting.began:
            minutes = self.patience / 60
            self._say(
                f"the API does not answer as it should ({told}); trying for {minutes:.3g} min"
            )
        if not waiting.pause():
            raise ClusterError(
                f"{self.host}: has not answered for {self.patience:.0f} s ({told}). Check the URL "
                "and the server. A run that was started goes on; the same command finds it again.",
                status=status,
            ) from error

    def _hidden(self, text: str) -> str:
        """A text without the token, should a server repeat it."""
        return text.replace(self._token, "***") if self._token else text


def _message(body: Any) -> str:
    """What an answer's body says, in one short line."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        told = json.loads(text)
        text = str(told.get("error") or told.get("message") or text)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:_SHOWN_CHARACTERS]


def _remedy(status: int) -> str:
    if status == _UNAUTHORIZED:
        return (
            f"The token is missing, wrong or expired: set {TOKEN_VARIABLE}, or "
            f"{TOKEN_FILE_VARIABLE} to a file that holds a valid one."
        )
    if status == _FORBIDDEN:
        return (
            f"The token's account may not do this; ask for the rights, or set {NAMESPACE_VARIABLE}."
        )
    if status == _NOT_FOUND:
        return "Check the URL: the API answers below /apis/v2beta1."
    if 300 <= status < 400:
        return f"That is a redirection, as to a login page: give a token as {TOKEN_VARIABLE}."
    if not status:
        return "Check the server's certificate; SSL_CERT_FILE names that of your own authority."
    return "Correct what the answer names."

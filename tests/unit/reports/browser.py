"""A headless Chromium for tests, spoken to over two pipes: no package, no port, no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE = (390, 800)
"""Width and height of a phone's window in CSS pixels."""

_READS, _WRITES = 3, 4  # the descriptors that --remote-debugging-pipe means


def find() -> str | None:
    """The browser's program, or None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page of `width` x `height` CSS pixels; messages of its console are kept."""

    def __init__(self, program: str, profile: Path, width: int, height: int) -> None:
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()

        def hand_over() -> None:
            kept = os.dup(writes)  # `writes` may be the descriptor that `reads` moves to
            os.dup2(os.dup(reads), _READS)
            os.dup2(kept, _WRITES)

        self._process = subprocess.Popen(
            [
                program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(_READS, _WRITES),
            preexec_fn=hand_over,
        )
        os.close(reads)
        os.close(writes)
        self._rest = b""
        self._last = 0
        self._session = ""
        self.console: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        self.call("Log.enable")
        self.call("Runtime.enable")
        self.call("Page.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def close(self) -> None:
        self._session = ""
        self.call("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **params: Any) -> Any:
        """Send one command of the DevTools protocol and wait for its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            if answer.get("method") == "Log.entryAdded":
                self.console.append(answer["params"]["entry"]["text"])
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        while self.run("document.readyState") != "complete":
            pass

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _receive(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

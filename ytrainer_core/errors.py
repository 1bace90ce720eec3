"""The errors a user can act on: each says what, where, and how to fix it.

Every class carries the exit code that the command line ends with, so that a
failure means the same on a laptop, in CI and in a Kubeflow step.
"""

from __future__ import annotations

from collections.abc import Sequence


class YTrainerError(Exception):
    """Base of all errors whose message is written for the person who runs ytrainer."""

    exit_code = 4

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults: Sequence[str] = faults


class ConfigError(YTrainerError):
    """The configuration is wrong. Carries one fault per line, all faults at once."""

    exit_code = 2


class DataError(YTrainerError):
    """The corpus is wrong: missing, unreadable, empty, or without anything to train."""

    exit_code = 2


class GateRejected(YTrainerError):
    """The trained model did not pass the gate. Nothing was promoted."""

    exit_code = 3


class CheckpointError(YTrainerError):
    """A checkpoint or model folder is damaged, incomplete, or of another run."""


class DiskFull(YTrainerError):
    """No space is left where something had to be written."""

    exit_code = 2


class RegistryError(YTrainerError):
    """The model registry refused, or a registered model is not the trained one."""


class StageFailed(YTrainerError):
    """A step of a pipeline ended without saying why (killed, out of memory)."""


class Cancelled(YTrainerError):
    """Somebody asked the work to stop, and it stopped where it can go on."""

    exit_code = 5


class TimedOut(YTrainerError):
    """The work took longer than it was allowed to; it was ended."""

    exit_code = 6


ERRORS: dict[str, type[YTrainerError]] = {
    cls.__name__: cls
    for cls in (
        YTrainerError,
        ConfigError,
        DataError,
        GateRejected,
        CheckpointError,
        DiskFull,
        RegistryError,
        StageFailed,
        Cancelled,
        TimedOut,
    )
}

"""The stages of ytrainer: STAGES names them, run_stage runs one the same way everywhere."""

from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.run import STAGES, run_component, run_stage

__all__ = ["STAGES", "Stage", "StageContext", "StageResult", "run_component", "run_stage"]

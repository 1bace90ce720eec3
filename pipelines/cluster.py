"""A Kubeflow Pipelines API (v2beta1) as the trigger needs it: upload, start, look, terminate.

kfp.Client is not used: it writes to the home directory, repeats nothing, and its
wait_for_run_completion neither tells a failed run nor ends on a cancelled one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.api import CONFLICT, NAMESPACE_VARIABLE, Api, ClusterError

UNFINISHED = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED")
"""States of a run that is not over."""

_TERMINATE_PATIENCE_SECONDS = 20.0
_EQUALS = 1  # of the API's PredicateOperation


@dataclass(frozen=True)
class PipelineVersion:
    """A version of a pipeline as the cluster knows it."""

    pipeline_id: str
    version_id: str
    name: str


class Cluster:
    """What an API has: pipelines with their versions, experiments, runs.

    Raises ClusterError where the API refuses or stays silent, TimedOut where its deadline is over.
    """

    def __init__(self, api: Api) -> None:
        import kfp_server_api

        self._api = api
        namespace = os.environ.get(NAMESPACE_VARIABLE)
        self._space = {"namespace": namespace} if namespace else {}
        self._pipelines = kfp_server_api.PipelineServiceApi(api.client)
        self._uploads = kfp_server_api.PipelineUploadServiceApi(api.client)
        self._experiments = kfp_server_api.ExperimentServiceApi(api.client)
        self._runs = kfp_server_api.RunServiceApi(api.client)

    @property
    def host(self) -> str:
        """URL of the API."""
        return self._api.host

    @property
    def deadline(self) -> float:
        """Time (monotonic) after which nothing is waited for."""
        return self._api.deadline

    def page_of(self, run_id: str) -> str:
        """URL at which a person sees the run."""
        return f"{self.host}/#/runs/details/{run_id}"

    def upload(self, pipeline: str, version: str, file: Path) -> PipelineVersion:
        """The version of a pipeline by its name, uploaded where it is not there yet."""
        pipeline_id = self._pipeline_id(pipeline)

        def find() -> str:
            found = self._api.ask(
                self._pipelines.pipeline_service_list_pipeline_versions,
                pipeline_id,
                filter=_named(version),
            ).pipeline_versions
            return str(found[0].pipeline_version_id) if found else ""

        def make() -> str:
            made = self._api.ask(
                self._uploads.upload_pipeline_version,
                str(file),
                name=version,
                display_name=version,
                pipelineid=pipeline_id,
            )
            return str(made.pipeline_version_id)

        version_id = self._found_or_made(f"version '{version}'", find, make)
        return PipelineVersion(pipeline_id, version_id, version)

    def start(
        self, name: str, version: PipelineVersion, arguments: dict[str, Any], experiment: str
    ) -> tuple[Any, bool]:
        """(run, whether it is new): the unfinished run of this name, else one created now.

        A name says what the run is made of. Where a request to create it got no answer, the run
        may have been made all the same, so that one is looked for before it is asked for again.
        """
        import kfp_server_api

        experiment_id = self._experiment_id(experiment)
        wanted = kfp_server_api.V2beta1Run(
            display_name=name,
            experiment_id=experiment_id,
            pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
            ),
            runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=arguments),
        )
        waiting = self._api.waiting()
        asked = False
        while True:
            if run := self._unfinished(name, experiment_id):
                return run, asked
            try:
                asked = True
                return self._api.once(self._runs.run_service_create_run, wanted), True
            except Exception as error:
                self._api.bear(error, waiting)

    def run(self, run_id: str) -> Any:
        """The run as it is now."""
        return self._api.ask(self._runs.run_service_get_run, run_id)

    def find(self, name: str, experiment: str) -> Any:
        """The unfinished run of a name, None where there is none."""
        return self._unfinished(name, self._experiment_id(experiment))

    def hurry(self) -> None:
        """Have little patience from now on, whatever the deadline was."""
        self._api.patience = min(self._api.patience, _TERMINATE_PATIENCE_SECONDS)
        self._api.deadline = float("inf")

    def terminate(self, run_id: str) -> None:
        """Ask the cluster to end a run; one that is over already is left alone."""
        try:
            self._api.ask(self._runs.run_service_terminate_run, run_id)
        except ClusterError:
            if self.run(run_id).state in UNFINISHED:
                raise

    # --- what names stand for --------------------------------------------------------------------

    def _pipeline_id(self, name: str) -> str:
        import kfp_server_api

        wanted = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, **self._space)

        def find() -> str:
            found = self._api.ask(
                self._pipelines.pipeline_service_list_pipelines, filter=_named(name), **self._space
            ).pipelines
            return str(found[0].pipeline_id) if found else ""

        def make() -> str:
            made = self._api.ask(self._pipelines.pipeline_service_create_pipeline, wanted)
            return str(made.pipeline_id)

        return self._found_or_made(f"pipeline '{name}'", find, make)

    def _experiment_id(self, name: str) -> str:
        import kfp_server_api

        wanted = kfp_server_api.V2beta1Experiment(display_name=name, **self._space)

        def find() -> str:
            found = self._api.ask(
                self._experiments.experiment_service_list_experiments,
                filter=_named(name),
                **self._space,
            ).experiments
            return str(found[0].experiment_id) if found else ""

        def make() -> str:
            made = self._api.ask(self._experiments.experiment_service_create_experiment, wanted)
            return str(made.experiment_id)

        return self._found_or_made(f"experiment '{name}'", find, make)

    def _found_or_made(self, what: str, find: Callable[[], str], make: Callable[[], str]) -> str:
        """The id of what has a name; where two make it at once, both get the one that is there."""
        if found := find():
            return found
        try:
            return make()
        except ClusterError as error:
            if error.status != CONFLICT:
                raise
        if found := find():
            return found
        raise ClusterError(
            f"{self.host}: has a {what} that it does not list. Set {NAMESPACE_VARIABLE} to the "
            "namespace in which it lies."
        )

    def _unfinished(self, name: str, experiment_id: str) -> Any:
        page = self._api.ask(
            self._runs.run_service_list_runs,
            experiment_id=experiment_id,
            filter=_named(name),
            sort_by="created_at desc",
        )
        runs = page.runs or []
        joinable = set(UNFINISHED) - {"CANCELING"}
        return next((run for run in runs if (run.state or UNFINISHED[0]) in joinable), None)


def _named(name: str) -> str:
    """A filter for what has this very name."""
    predicate = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})

"""What a run leaves behind that was stopped from outside: the runs of its stages and tasks, still running as far as the
server knows, and its folder. A process that is killed cannot tell, so whoever stopped it does."""

import logging
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Crashed

from flows.ingest import RUN_NAME, discard_run_folder

UNFINISHED = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])))

log = logging.getLogger(__name__)


def clear_up(flow: Any, flow_run: Any, state: Any) -> None:
    """End the runs of stages and tasks as their run ended, and remove its folder: a hook of Prefect, called when a run was
    cancelled or crashed and its process is gone (or does nothing for it any more). Calling it again does no harm."""
    ended = Crashed if state.is_crashed() else Cancelled
    message = f"{flow_run.name} was stopped"
    ours = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]))
    with get_client(sync_client=True) as client:
        stages = client.read_flow_runs(flow_run_filter=ours)
        theirs = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id, *(stage.id for stage in stages)]))
        for task in client.read_task_runs(flow_run_filter=theirs, task_run_filter=UNFINISHED):
            client.set_task_run_state(task.id, ended(message=message), force=True)
        for stage in stages:
            if stage.state is None or not stage.state.is_final():
                client.set_flow_run_state(stage.id, ended(message=message), force=True)
                log.info("%s ended with the run that started it", stage.name)
            run = str((stage.parameters or {}).get("run", ""))
            if RUN_NAME.fullmatch(run):  # parameters come from outside; only a name of ours becomes a path
                discard_run_folder(run)

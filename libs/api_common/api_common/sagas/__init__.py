"""Package sagas holds work of several steps that outlives a crash: plans, their store, the worker."""

from api_common.sagas.metrics import SagaMetrics
from api_common.sagas.plan import Effect, Plan, RetryPolicy, Saga, SagaState, Step, StepAction
from api_common.sagas.sagas import Sagas
from api_common.sagas.store import saga_table
from api_common.sagas.worker import SagaWorker

__all__ = [
    "Effect",
    "Plan",
    "RetryPolicy",
    "Saga",
    "SagaMetrics",
    "SagaState",
    "SagaWorker",
    "Sagas",
    "Step",
    "StepAction",
    "saga_table",
]

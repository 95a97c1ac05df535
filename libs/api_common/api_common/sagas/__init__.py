"""Package sagas holds work of several steps that outlives a crash: plans, their store, the worker."""

from api_common.sagas.metrics import SagaMetrics
from api_common.sagas.plan import Effect, Effecting, Plan, RetryPolicy, Saga, Sagas, SagaState, Step
from api_common.sagas.store import saga_table
from api_common.sagas.worker import SagaWorker

__all__ = [
    "Effect",
    "Effecting",
    "Plan",
    "RetryPolicy",
    "Saga",
    "SagaMetrics",
    "SagaState",
    "SagaWorker",
    "Sagas",
    "Step",
    "saga_table",
]

"""Package sagas holds work of several steps that outlives a crash: plans, their store, the worker."""

from api_common.sagas.metrics import SagaMetrics as SagaMetrics
from api_common.sagas.plan import Effect as Effect
from api_common.sagas.plan import Plan as Plan
from api_common.sagas.plan import Saga as Saga
from api_common.sagas.plan import SagaState as SagaState
from api_common.sagas.plan import Step as Step
from api_common.sagas.plan import StepAction as StepAction
from api_common.sagas.sagas import Sagas as Sagas
from api_common.sagas.store import saga_table as saga_table
from api_common.sagas.worker import SagaWorker as SagaWorker

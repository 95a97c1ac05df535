"""Package rpc holds the adapter between servicers and gRPC, and the layers that every call passes."""

from api_common.rpc.adapter import COMPRESSED_BYTES as COMPRESSED_BYTES
from api_common.rpc.adapter import MAX_STREAM_SECONDS as MAX_STREAM_SECONDS
from api_common.rpc.adapter import NOT_MODIFIED as NOT_MODIFIED
from api_common.rpc.adapter import unknown_method_handler as unknown_method_handler
from api_common.rpc.call import Incoming as Incoming
from api_common.rpc.layers import Pipeline as Pipeline
from api_common.rpc.layers.admission import REASONS_BY_RULE as REASONS_BY_RULE
from api_common.rpc.layers.admission import Shares as Shares
from api_common.rpc.layers.answer_cache import AnswerCache as AnswerCache
from api_common.rpc.layers.streaming import Streams as Streams
from api_common.rpc.layers.telemetry import AccessLog as AccessLog
from api_common.rpc.layers.transaction import MAX_RESPONSE_BYTES as MAX_RESPONSE_BYTES

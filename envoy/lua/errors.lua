-- Completes gRPC errors that come without google.rpc.Status. Those of the edge have their facts in headers. A few come from gRPC in a
-- service, before our code there runs: the deadline passed in its queue, a message too large, a defect. Errors of Connect are made here.
local REPLIES, STATUS, CONNECT = require("replies"), require("lua.status"), require("lua.connect_reply")
local field, detail = STATUS.field, STATUS.detail

-- The replies that stand for what gRPC says by itself, by its code.
local PLAIN = {}
for _, status in ipairs({504, 413, 404, 503}) do
  PLAIN[REPLIES.replies[status].code] = REPLIES.replies[status]
end
local DEFECT = REPLIES.replies[500]
local CANCELLED, UNAVAILABLE = "1", "14"

local JSON = '{"code":%s,"message":"%s","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"%s","domain":"%s",'
  .. '"metadata":{}},{"@type":"type.googleapis.com/google.rpc.RequestInfo","requestId":"%s","servingData":""}]}'

-- Says in headers what an error is.
local function say(headers, reply)
  headers:replace("grpc-status", reply.code)
  headers:replace("grpc-message", reply.message)
  headers:replace("error-type", reply.reason)
  headers:replace("error-id", headers:get("x-request-id") or "")
end

-- Returns google.rpc.Status of what the headers say, and of the field that a filter has refused.
local function complete(headers, refused)
  local status = string.char(0x08, tonumber(headers:get("grpc-status"))) .. field(0x12, headers:get("grpc-message"))
    .. detail("ErrorInfo", field(0x0a, headers:get("error-type")) .. field(0x12, REPLIES.domain))
    .. detail("RequestInfo", field(0x0a, headers:get("error-id") or ""))
  local seconds = tonumber(headers:get("retry-after") or "")
  if seconds then
    status = status .. detail("RetryInfo", field(0x0a, string.char(0x08) .. STATUS.varint(seconds)))
  end
  if refused then
    local violation = field(0x0a, refused.field) .. field(0x12, refused.description) .. field(0x1a, refused.reason)
    status = status .. detail("BadRequest", field(0x0a, violation))
  end
  return status
end

-- Says UNAVAILABLE in place of what is no answer of gRPC: a page of some proxy, or an error of HTTP. Nothing can add the trailers of
-- gRPC here; its clients take UNAVAILABLE from the 503, and the filter grpc_web makes grpc-status and grpc-message of it.
local function replace_foreign(handle, headers, metadata)
  local reply, id = REPLIES.replies[503], headers:get("x-request-id") or ""
  local is_rest = (metadata:get("ameide.edge") or {}).rest
  local text = is_rest and JSON:format(reply.code, reply.message, reply.reason, REPLIES.domain, id) or reply.message
  headers:replace(":status", "503")
  headers:replace("content-type", is_rest and "application/json" or "text/plain")
  headers:replace("error-type", reply.reason)
  headers:replace("error-id", id)
  -- Last: the headers cannot be changed any more once the body has been waited for.
  handle:body(true):setBytes(text)
end

function envoy_on_response(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local connect = metadata:get("ameide.connect")
  local code = headers:get("grpc-status")
  -- Envoy adds this header to what comes from a service, not to its own pages and refusals.
  if headers:get("x-envoy-upstream-service-time") and not (headers:get("content-type") or ""):find("^application/grpc") then
    if not connect then
      replace_foreign(handle, headers, metadata)
      return
    end
    code = UNAVAILABLE
    say(headers, REPLIES.replies[503])
    headers:remove("grpc-status-details-bin")
  end
  if not code then
    if connect then
      CONNECT.name_details(handle)
    end
    return
  elseif code == "0" then
    return
  end
  local packed = headers:get("grpc-status-details-bin")
  if not packed then
    if not headers:get("error-type") then
      -- The service cancelled the call before our code saw it. If the caller had, it would read no response.
      say(headers, PLAIN[code == CANCELLED and UNAVAILABLE or code] or DEFECT)
    end
    packed = complete(headers, connect and metadata:get("strict"))
    if not connect then
      headers:replace("grpc-status-details-bin", handle:base64Escape(packed))
    end
  elseif connect then
    packed = STATUS.from_base64(packed)
  end
  if connect then
    CONNECT.refuse(handle, headers, connect, packed)
  end
end

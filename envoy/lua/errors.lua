-- Completes gRPC errors that come without google.rpc.Status. Those of the edge have their facts in headers. A few come from gRPC in a
-- service, before our code there runs: the deadline passed in its queue, a message too large, a defect.
local REPLIES = require("replies")

-- The replies that stand for what gRPC says by itself, by its code.
local PLAIN = {}
for _, status in ipairs({504, 413, 404, 503}) do
  PLAIN[REPLIES.replies[status].code] = REPLIES.replies[status]
end
local DEFECT = REPLIES.replies[500]
local CANCELLED, UNAVAILABLE = "1", "14"

local function varint(number)
  local encoded = ""
  while number >= 128 do
    encoded, number = encoded .. string.char(128 + number % 128), math.floor(number / 128)
  end
  return encoded .. string.char(number)
end

-- Encodes a length-delimited protobuf field.
local function field(tag, value)
  return string.char(tag) .. varint(#value) .. value
end

local function detail(name, value)
  return field(0x1a, field(0x0a, "type.googleapis.com/google.rpc." .. name) .. field(0x12, value))
end

local JSON = '{"code":%s,"message":"%s","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"%s","domain":"%s",'
  .. '"metadata":{}},{"@type":"type.googleapis.com/google.rpc.RequestInfo","requestId":"%s","servingData":""}]}'

-- Says UNAVAILABLE in place of what is no answer of gRPC: a page of some proxy, or an error of HTTP. Nothing can add the trailers of
-- gRPC here; its clients take UNAVAILABLE from the 503, and the filter grpc_web makes grpc-status and grpc-message of it.
local function replace_foreign(handle, headers)
  local reply, id = REPLIES.replies[503], headers:get("x-request-id") or ""
  local is_rest = (handle:streamInfo():dynamicMetadata():get("ameide.edge") or {}).rest
  local text = is_rest and JSON:format(reply.code, reply.message, reply.reason, REPLIES.domain, id) or reply.message
  headers:replace(":status", "503")
  headers:replace("content-type", is_rest and "application/json" or "text/plain")
  headers:replace("error-type", reply.reason)
  headers:replace("error-id", id)
  -- Last: the headers cannot be changed any more once the body has been waited for.
  handle:body(true):setBytes(text)
end

function envoy_on_request(handle)
  if handle:headers():get("x-envoy-original-path") then
    handle:streamInfo():dynamicMetadata():set("ameide.edge", "rest", true)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  -- Envoy adds this header to what comes from a service, not to its own pages and refusals.
  if headers:get("x-envoy-upstream-service-time") and not (headers:get("content-type") or ""):find("^application/grpc") then
    replace_foreign(handle, headers)
    return
  end
  local code = headers:get("grpc-status")
  if not code or code == "0" or headers:get("grpc-status-details-bin") then
    return
  end
  if not headers:get("error-type") then
    -- The service cancelled the call before our code saw it. If the caller had, it would read no response.
    local reply = PLAIN[code == CANCELLED and UNAVAILABLE or code] or DEFECT
    code = reply.code
    headers:replace("grpc-status", code)
    headers:replace("error-type", reply.reason)
    headers:replace("grpc-message", reply.message)
    headers:replace("error-id", headers:get("x-request-id") or "")
  end
  local status = string.char(0x08, tonumber(code)) .. field(0x12, headers:get("grpc-message"))
    .. detail("ErrorInfo", field(0x0a, headers:get("error-type")) .. field(0x12, REPLIES.domain))
    .. detail("RequestInfo", field(0x0a, headers:get("error-id")))
  local seconds = tonumber(headers:get("retry-after") or "")
  if seconds then
    status = status .. detail("RetryInfo", field(0x0a, string.char(0x08) .. varint(seconds)))
  end
  headers:replace("grpc-status-details-bin", handle:base64Escape(status))
end

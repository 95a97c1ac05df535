-- Finds out whether a request speaks Connect, and gives it the headers of gRPC (ADR 40). What it is stands in the metadata
-- `ameide.connect`: `shape` is `unary` or `stream`, `codec` is `proto` or `json`, `get` says that the message is in the query.
local RPCS, from_base64 = require("rpcs"), require("lua.status").from_base64

local TYPES = {
  ["application/proto"] = {shape = "unary", codec = "proto"},
  ["application/json"] = {shape = "unary", codec = "json"},
  ["application/connect+proto"] = {shape = "stream", codec = "proto"},
  ["application/connect+json"] = {shape = "stream", codec = "json"},
}
local PARAMETERS = {connect = true, encoding = true, message = true, base64 = true, compression = true}
-- What Connect has names of its own for, and those.
local REPLACED = {
  "content-encoding", "grpc-encoding", "grpc-accept-encoding", "if-none-match",
  "connect-accept-encoding", "connect-content-encoding", "connect-timeout-ms",
}
local COMPRESSIONS = {[""] = true, identity = true, gzip = true}
local MAX_MILLISECONDS = 99999999

local function unescape(text)
  return (text:gsub("+", " "):gsub("%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end))
end

local connect_request = {}

-- Returns what a request speaks, if it is Connect. Its headers are then those that gRPC would have.
function connect_request.recognise(handle, headers)
  local path, query = headers:get(":path"):match("^([^?]*)%??(.*)$")
  local rpc, version = RPCS[path], headers:get("connect-protocol-version")
  local media_type = (headers:get("content-type") or ""):lower():match("^[^%s;]*")
  local found, is_get = TYPES[media_type], false
  local parameters = "&" .. query .. "&"
  if rpc and headers:get(":method") == "GET" and parameters:find("&connect=v1&", 1, true) then
    found = TYPES[parameters:find("&encoding=json&", 1, true) and "application/json" or "application/proto"]
    is_get = rpc.safe and not rpc.stream
  elseif not found or media_type == "application/json" and not (rpc or version) then
    return nil
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("ameide.connect", "shape", found.shape)
  metadata:set("ameide.connect", "codec", found.codec)
  if is_get then
    metadata:set("ameide.connect", "get", true)
    headers:replace(":method", "POST")
  elseif media_type ~= "application/json" then
    headers:replace("content-type", media_type)
  end

  local milliseconds = (headers:get("connect-timeout-ms") or ""):match("^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?$")
  if milliseconds then
    local value = tonumber(milliseconds)
    local is_short = value <= MAX_MILLISECONDS
    headers:replace("grpc-timeout", is_short and ("%dm"):format(value) or ("%dS"):format(value / 1000))
  end

  local is_json, is_stream = found.codec == "json", found.shape == "stream"
  local encoding = headers:get(is_stream and "connect-content-encoding" or "content-encoding")
  local accepted = is_stream and not is_json and headers:get("connect-accept-encoding")
  for _, name in ipairs(REPLACED) do
    headers:remove(name)
  end
  if encoding and encoding ~= "identity" then
    headers:replace(is_json and "content-encoding" or "grpc-encoding", encoding)
  end
  if accepted then
    headers:replace("grpc-accept-encoding", accepted)
  end

  -- The filter that makes gRPC of Connect works for requests with this header. The transcoder reads a single JSON message.
  if is_json and not is_stream then
    if version == "1" then
      headers:remove("connect-protocol-version")
    end
  elseif not version then
    headers:replace("connect-protocol-version", "1")
  end
  return found
end

-- Returns the message in a query, its codec and whether it is compressed; or nil, the parameter that is wrong and what is wrong with it.
local function read_query(query)
  local said = {}
  for pair in query:gmatch("[^&]+") do
    local name, value = pair:match("^([^=]*)=(.*)$")
    if not PARAMETERS[name] then
      return nil, (name or pair):sub(1, 64), "is unknown", "UNKNOWN"
    elseif said[name] then
      return nil, name, "is there twice", "DUPLICATE"
    end
    said[name] = unescape(value)
  end
  if said.encoding ~= "proto" and said.encoding ~= "json" then
    return nil, "encoding", "must be proto or json", "INVALID_VALUE"
  elseif said.compression and not COMPRESSIONS[said.compression] or said.compression == "gzip" and said.encoding == "json" then
    return nil, "compression", "must be identity, or gzip in protobuf", "INVALID_VALUE"
  elseif said.base64 and said.base64 ~= "1" then
    return nil, "base64", "must be 1", "INVALID_VALUE"
  elseif not said.message then
    return nil, "message", "is required", "REQUIRED"
  end
  local message = said.message
  if said.base64 then
    message = from_base64(message)
  end
  if not message then
    return nil, "message", "must be base64", "INVALID_FORMAT"
  end
  return message, said.encoding, said.compression == "gzip"
end

local function refuse(handle, name, description, reason)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("strict", "field", name)
  metadata:set("strict", "description", description)
  metadata:set("strict", "reason", reason)
  handle:respond({[":status"] = "400"}, "")
end

-- Makes a POST of a GET whose message is in the query; refuses one that is malformed.
function connect_request.take_message(handle, headers)
  local path, query = headers:get(":path"):match("^([^?]*)%??(.*)$")
  local message, codec, more, reason = read_query(query)
  if not message then
    refuse(handle, codec, more, reason)
    return
  end
  headers:replace(":path", path)
  headers:replace("content-type", "application/" .. codec)
  if more then
    headers:replace("grpc-encoding", "gzip")
  end
  -- Over HTTP/2 a body needs no announcement.
  local body = handle:body(true)
  if body:length() > 0 then
    refuse(handle, "", "The body must be empty: the message is in the query.", "NOT_ALLOWED")
  else
    body:setBytes(message)
  end
end

return connect_request

-- Refuses, before a byte of its body is kept, a request that nobody serves, and measures how much a caller is about to send.
--
-- The early header mutation of envoy.yaml says in x-ameide-size how long the body is: what the client announces, or the most that may
-- be if it comes in chunks. HTTP/2 need not say it; then it is known when the whole body is here.
local RPCS, OPEN, find_route = require("rpcs"), require("open_paths"), require("lua.find_route")
local allowed = require("lua.allowed")
local take_message = require("lua.connect_request").take_message
local MAX_BYTES = 10485765
local MAX_MCP_BYTES = 1048576

-- Refuses a request whose path nobody serves, or not with its method.
local function refuse_route(handle, path)
  local methods = allowed(path)
  if methods == "" then
    handle:respond({[":status"] = "404"}, "")
  else
    handle:respond({[":status"] = "405", allow = methods}, "")
  end
end

local function refuse_body(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("strict", "field", "")
  metadata:set("strict", "description", "The body must be empty: this method takes none.")
  metadata:set("strict", "reason", "NOT_ALLOWED")
  handle:respond({[":status"] = "400"}, "")
end

-- Names for the filters that count bytes whose they are: `announced` counts before the edge keeps them, `arrived` afterwards.
local function measure(metadata, identity, size)
  if not identity or size == 0 then
    return
  end
  local namespace = size and "ameide.announced" or "ameide.arrived"
  metadata:set(namespace, "tenant", identity.tenant)
  metadata:set(namespace, "principal", identity.principal)
  if size then
    metadata:set(namespace, "bytes", tostring(math.min(size, MAX_BYTES)))
  end
end

local function is_grpc(content_type)
  return content_type and content_type:lower():find("^application/grpc")
end

local function is_json(content_type)
  return (content_type:lower():gsub("%s", "") .. ";"):find("^application/json;")
end

-- Refuses a request of `identity` unless somebody serves it.
return function(handle, headers, metadata, path, identity)
  local method, announced = headers:get(":method"), headers:get("x-ameide-size")
  local size = announced and (tonumber(announced) or MAX_BYTES)
  headers:remove("x-ameide-size")
  if OPEN[path] then
    if method ~= "GET" then
      refuse_route(handle, path)
    elseif size and size > 0 then
      refuse_body(handle)
    end
    return
  end
  local route, rpc = find_route(method, path), RPCS[path]
  local is_head = (metadata:get("ameide.edge") or {}).head
  if not route and handle:metadata():get("mcp") then
    -- An endpoint for AI agents, which the route knows. It opens no stream of its own, so GET is refused, too.
    if method ~= "POST" then
      handle:respond({[":status"] = "405", allow = "POST"}, "")
    elseif not is_json(headers:get("content-type") or "") then
      handle:respond({[":status"] = "415"}, "")
    elseif (tonumber(announced) or 0) > MAX_MCP_BYTES then
      handle:respond({[":status"] = "413"}, "")
    else
      measure(metadata, identity, size)
    end
    return
  elseif not route or is_head and route.stream then
    refuse_route(handle, path)
    return
  end
  local connect = rpc and metadata:get("ameide.connect")
  if rpc and not is_grpc(headers:get("content-type")) and not (connect and (connect.shape == "stream") == rpc.stream) then
    handle:respond({[":status"] = "415"}, "")
  elseif not (connect and connect.get) then
    -- The official client of Connect for Node.js always sends chunks over HTTP/1.1. They count when they are here, as over HTTP/2.
    measure(metadata, identity, not (connect and announced == "chunked") and size or nil)
  elseif size and size > 0 then
    refuse_body(handle)
  else
    take_message(handle, headers)
  end
end

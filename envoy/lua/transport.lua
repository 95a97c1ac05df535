-- Owns what headers say: what HTTP/2, Envoy or gRPC interprets has a form. Only those of request_headers.yaml come this far. gRPC keeps the
-- error of a malformed header and lays it on other calls of the connection (grpc/grpc#34721), so none may reach a service (ADR 33). What
-- has to be refused is refused by the rbac filter, behind grpc_web.
local RPCS = require("rpcs")
local recognise = require("lua.connect_request").recognise

-- Whether a value is `*` or a list of entity tags (RFC 9110, section 13.1.2). The search moves forward only.
local function is_list_of_tags(value)
  if value == "*" then
    return true
  end
  local at, last = 1, nil
  repeat
    _, last = value:find('^[ \t]*W/"[!#-~]*"[ \t]*', at)
    if not last then
      _, last = value:find('^[ \t]*"[!#-~]*"[ \t]*', at)
    end
    at = (last or 0) + 2
  until not last or value:sub(last + 1, last + 1) ~= ","
  return last == #value
end

-- The directives for which no kept answer is good enough. What else there is does not matter (RFC 9111, section 5.2.3).
local STRICT = {["max-age"] = true, ["min-fresh"] = true, ["no-cache"] = true, ["no-store"] = true}

-- Returns the age that Cache-Control accepts as services read it, or nil: what is malformed or said twice asks for a current answer, as
-- does a quoted text, because it may hold a comma (RFC 9111, sections 4.2.1 and 5.2.1).
local function accepted_age(value)
  local found
  value = value:lower():gsub('max%-age="(%d+)"', "max-age=%1")
  for directive in (value:find('"') and "no-cache" or value):gmatch("[^,]+") do
    local seconds = directive:match("^[ \t]*max%-age=(%d+)[ \t]*$")
    if found and seconds or not seconds and STRICT[directive:match("^[ \t]*([^= \t]*)")] then
      return nil
    end
    found = found or seconds
  end
  return found and ("max-age=%d"):format(math.min(tonumber(found), 30))
end

local FORMS = {
  -- At most eight digits (gRPC's PROTOCOL-HTTP2.md).
  ["grpc-timeout"] = "^%d%d?%d?%d?%d?%d?%d?%d?[HMSmun]$",
  -- A resume token.
  ["last-event-id"] = "^[%w_=-]+$",
  traceparent = "^00%-" .. ("[%da-f]"):rep(32) .. "%-" .. ("[%da-f]"):rep(16) .. "%-[%da-f][%da-f]$",
}
-- Compression is for gRPC, and for Connect, which is made gRPC of. Other requests have none.
local FORMS_OF_GRPC = {
  ["grpc-accept-encoding"] = "^[a-z][a-z, ]*$",
  -- The rbac filter refuses those that no service knows. An empty one says nothing, but gRPC would not take it.
  ["grpc-encoding"] = ".",
}
-- All headers together. The services take four times as much (grpc.max_metadata_size).
local MAX_BYTES = 16384
local MAX_USER_AGENT = 256

-- Media types are compared without regard to case and parameters (RFC 9110, section 8.3.1).
local MEDIA_TYPES = {}
for _, name in ipairs({"application/grpc", "application/grpc-web", "application/grpc-web-text"}) do
  MEDIA_TYPES[name], MEDIA_TYPES[name .. "+proto"] = name, name
end

local function keep(headers, forms)
  for name, form in pairs(forms) do
    local value = headers:get(name)
    if value and not value:find(form) then
      headers:remove(name)
    end
  end
end

local function own(handle, headers)
  local path = headers:get(":path"):match("^[^?]*")
  if path == "/mcp" or path:find("^/mcp/%a+$") then
    -- A 401 names the document of this endpoint, also when the bridge has made another request of the call.
    handle:streamInfo():dynamicMetadata():set("ameide.edge", "endpoint", path)
  end
  local content_type = headers:get("content-type")
  local media_type = content_type and MEDIA_TYPES[content_type:lower():match("^[^%s;]*")]
  if media_type and media_type ~= content_type then
    headers:replace("content-type", media_type)
  end
  local speaks_connect = not media_type and (content_type or RPCS[path])
    and handle:virtualHost():metadata():get("connect") and recognise(handle, headers)
  if tonumber(headers:get("x-ameide-header-bytes")) > MAX_BYTES then
    handle:streamInfo():dynamicMetadata():set("transport", "too_large", true)
    return
  end
  keep(headers, FORMS)
  if media_type or speaks_connect then
    keep(headers, FORMS_OF_GRPC)
  else
    for name in pairs(FORMS_OF_GRPC) do
      headers:remove(name)
    end
  end
  if not speaks_connect then
    -- The rbac filter refuses other versions.
    headers:remove("connect-protocol-version")
  end
  local tags = headers:get("if-none-match")
  if tags and not is_list_of_tags(tags) then
    headers:remove("if-none-match")
  end
  local cache_control = headers:get("cache-control")
  if cache_control then
    local age = accepted_age(cache_control)
    if age then
      headers:replace("cache-control", age)
    else
      headers:remove("cache-control")
    end
  end
  local agent = headers:get("user-agent")
  if agent and (#agent > MAX_USER_AGENT or agent:find("[^ -~]")) then
    headers:replace("user-agent", (agent:sub(1, MAX_USER_AGENT):gsub("[^ -~]", "?")))
  end
  if media_type == "application/grpc" then
    -- Some clients and proxies drop it, and gRPC refuses a call without it.
    headers:replace("te", "trailers")
  end
end

-- Says which methods a path has. The CORS filter has answered the pages that may call; all others learn no more than this, and no
-- service sees the question. Envoy answers gRPC in its own way, which has no 204.
local function answer_options(handle, headers)
  local path = headers:get(":path"):match("^[^?]*")
  -- Loaded when it is needed: Lua looks through all it holds for garbage.
  local methods = RPCS[path] and "POST, OPTIONS" or require("lua.allowed")(path)
  if ((headers:get("content-type") or "") .. ";"):find("^application/grpc[+;]") then
    handle:respond({[":status"] = "405"}, "")
  elseif methods == "" and path ~= "*" then
    handle:respond({[":status"] = "404"}, "")
  else
    handle:respond({[":status"] = "204", allow = methods ~= "" and methods or nil}, "")
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local method = headers:get(":method")
  if method == "OPTIONS" then
    answer_options(handle, headers)
    return
  elseif method == "CONNECT" then
    -- It asks for a tunnel, and has no path.
    handle:respond({[":status"] = "404"}, "")
    return
  elseif method == "HEAD" then
    -- It is answered as GET is, and rest.lua drops the body, which nothing may compress.
    headers:replace(":method", "GET")
    headers:remove("accept-encoding")
    handle:streamInfo():dynamicMetadata():set("ameide.edge", "head", true)
  end
  -- Envoy passes a request on when a script fails.
  local passed, failure = pcall(own, handle, headers)
  if not passed then
    handle:logErr(failure)
    handle:respond({[":status"] = "500"}, "")
  end
end

-- Reads the message of an AI agent before the bridge does, and answers what the bridge does not know, or answers in a way that a model
-- does not see. strict.lua reads the REST request that the bridge makes of a call.
local strict, quoted = require("lua.strict"), require("lua.connect_reply").quoted
local REPLIES, TOOLS = require("replies"), require("tools")
local MALFORMED = REPLIES.replies[400]
local MAX_HEADER = 255
local HEADERS = {"idempotencyKey", "ifMatch"}

local RESULT = '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":%s}],"isError":true}}'
local ERROR = '{"code":%s,"message":%s,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"%s","domain":"%s",'
  .. '"metadata":{}},{"@type":"type.googleapis.com/google.rpc.RequestInfo","requestId":%s,"servingData":""},'
  .. '{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"%s","description":%s,"reason":"%s"}]}]}'

-- Whether a segment of a path leads elsewhere.
local function is_way(id)
  for segment in (id .. "/"):gmatch("([^/]*)/") do
    if segment == "." or segment == ".." then
      return true
    end
  end
  return false
end

-- Returns the first of a call's arguments that the bridge cannot put into a path, a body or a header, why, and the reason.
local function find_wrong(needed, arguments)
  for name, place in pairs(needed) do
    local argument = arguments[name]
    local content = argument and strict.content_of(argument.text)
    if not argument or argument.text == "null" then
      return name, "is missing", "REQUIRED"
    elseif place == "path" and not content then
      return name, "must be a string", "INVALID_FORMAT"
    elseif content == "" and place == "path" then
      return name, "must not be empty", "REQUIRED"
    elseif place == "path" and is_way(content) then
      return name, "must not be a way to elsewhere", "INVALID_FORMAT"
    end
  end
  for _, name in ipairs(HEADERS) do
    local argument = arguments[name]
    local content = argument and strict.content_of(argument.text) or ""
    if argument and (content == "" or #content > MAX_HEADER or content:find("[^ -~]")) then
      return name, ("must be at most %d printable characters of ASCII"):format(MAX_HEADER), "INVALID_FORMAT"
    end
  end
end

local function answer(handle, text, headers)
  headers = headers or {}
  headers[":status"], headers["content-type"] = "200", "application/json"
  handle:respond(headers, text)
end

function envoy_on_request(handle)
  local message = strict.read_members(handle)
  if not message then
    return
  elseif not message.id or not message.method then
    -- A notification, or the answer to a question that nobody asked: nothing comes of it, and JSON-RPC forbids to answer.
    handle:respond({[":status"] = "202"}, "")
    return
  end
  local id, method = message.id.text, message.method.text
  if method == '"ping"' then
    answer(handle, '{"jsonrpc":"2.0","id":' .. id .. ',"result":{}}')
    return
  end
  local params = method == '"tools/call"' and message.params and message.params.members or {}
  local needed = params.name and TOOLS[strict.content_of(params.name.text)]
  if not needed then
    return
  end
  local field, description, reason = find_wrong(needed, params.arguments and params.arguments.members or {})
  if field then
    local request_id = handle:headers():get("x-request-id") or ""
    local said = MALFORMED.message .. " " .. field .. " " .. description .. "."
    local text = ERROR:format(MALFORMED.code, quoted(said), MALFORMED.reason, REPLIES.domain, quoted(request_id), field,
      quoted(description), reason)
    answer(handle, RESULT:format(id, quoted(text)), {["error-type"] = MALFORMED.reason, ["error-id"] = request_id})
  end
end

-- Reads the message of an AI agent before the bridge does, and answers what the bridge does not know. strict.lua reads the REST request
-- that the bridge makes of a call.
local strict = require("lua.strict")

function envoy_on_request(handle)
  local message = strict.read_members(handle)
  if not message then
    return
  end
  if message.method == '"ping"' and message.id then
    local pong = '{"jsonrpc":"2.0","id":' .. message.id .. ',"result":{}}'
    handle:respond({[":status"] = "200", ["content-type"] = "application/json"}, pong)
  elseif not message.id or not message.method then
    -- A notification, or the answer to a question that nobody asked: nothing comes of it, and JSON-RPC forbids to answer.
    handle:respond({[":status"] = "202"}, "")
  end
end

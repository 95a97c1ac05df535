-- Holds the REST request that the bridge has made of a call to the walls that the call itself passed: transport.lua and the rbac filter
-- saw the headers before the bridge wrote these.
local MAX_PATH, MAX_HEADER = 16384, 255
local ARGUMENTS = {["idempotency-key"] = "idempotencyKey", ["if-match"] = "ifMatch"}

local function refuse(handle, field, description, reason)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("strict", "field", field)
  metadata:set("strict", "description", description)
  metadata:set("strict", "reason", reason)
  handle:respond({[":status"] = "400"}, "")
end

function envoy_on_request(handle)
  handle:streamInfo():dynamicMetadata():set("mcp", "called", true)
  local headers = handle:headers()
  for header, argument in pairs(ARGUMENTS) do
    local value = headers:get(header)
    if value and (#value > MAX_HEADER or value:find("[^ -~]")) then
      refuse(handle, argument, ("must be at most %d printable characters of ASCII"):format(MAX_HEADER), "INVALID_FORMAT")
      return
    end
  end
  if #headers:get(":path") > MAX_PATH then
    refuse(handle, "", ("The arguments make a path of more than %d characters."):format(MAX_PATH), "TOO_LONG")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") == "403" and handle:streamInfo():dynamicMetadata():get("mcp") then
    -- To a model a refusal is an answer. The bridge leaves 403 as it is, and a client would take the connection for broken.
    headers:replace(":status", "400")
  end
end

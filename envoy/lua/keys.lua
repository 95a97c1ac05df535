-- Spares the users service the API keys of an address that has just shown too many that do not work. The service bounds them exactly, but
-- each costs it a call; here each worker of Envoy counts for itself, so a few more pass.
local PER_SECOND = 50
local refused, second = {}, 0

local function refusals()
  if os.time() ~= second then
    refused, second = {}, os.time()
  end
  return refused
end

function envoy_on_request(handle)
  if not handle:headers():get("x-api-key") then
    return
  end
  local info = handle:streamInfo()
  local address = info:downstreamRemoteAddress():match("^(.*):%d+$") or ""
  if (refusals()[address] or 0) >= PER_SECOND then
    handle:respond({[":status"] = "429"}, "")
    return
  end
  info:dynamicMetadata():set("keys", "address", address)
end

function envoy_on_response(handle)
  local shown = handle:streamInfo():dynamicMetadata():get("keys")
  if not shown then
    return
  end
  local headers = handle:headers()
  if headers:get(":status") == "401" or headers:get("grpc-status") == "16" then
    refusals()[shown.address] = (refusals()[shown.address] or 0) + 1
  end
end

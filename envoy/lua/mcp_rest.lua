-- Holds the REST request that the bridge has made of a call to the walls that the call itself passed.
local find_route = require("lua.find_route")
local MAX_PATH = 16384

function envoy_on_request(handle)
  local metadata, headers = handle:streamInfo():dynamicMetadata(), handle:headers()
  metadata:set("mcp", "called", true)
  local path = headers:get(":path")
  if #path > MAX_PATH then
    metadata:set("strict", "field", "")
    metadata:set("strict", "description", ("The arguments make a path of more than %d characters."):format(MAX_PATH))
    metadata:set("strict", "reason", "TOO_LONG")
    handle:respond({[":status"] = "400"}, "")
  elseif path:find("^/mcp[%a/]*/tools%.json$") then
    -- The edge holds a list of tools until its caller has read it.
    metadata:set("ameide.identity", "class", "EXPENSIVE")
  elseif not find_route(headers:get(":method"), path:match("^[^?]*")) then
    -- strict.lua leaves such a request to others, and the transcoder may find it all the same.
    handle:respond({[":status"] = "404"}, "")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") == "403" and handle:streamInfo():dynamicMetadata():get("mcp") then
    -- To a model a refusal is an answer. The bridge leaves 403 as it is, and a client would take the connection for broken.
    headers:replace(":status", "400")
  end
end

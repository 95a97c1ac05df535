-- Admits a request: first its caller, then its path.
local identify, serve = require("lua.claims"), require("lua.paths")

function envoy_on_request(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local path = headers:get(":path"):match("^[^?]*")
  local identity = identify(handle, headers, metadata, path)
  if identity ~= false then
    serve(handle, headers, metadata, path, identity)
  end
end

-- Corrects REST responses after the transcoder.
local OF_GRPC = {"grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding", "grpc-accept-encoding"}

function envoy_on_response(handle)
  local headers = handle:headers()
  -- A JSON body of 10 MiB can be a larger message (numbers grow), which the service refuses with RESOURCE_EXHAUSTED. The transcoder
  -- makes 429 of that, and clients would repeat the request.
  if headers:get("error-type") == "PAYLOAD_TOO_LARGE" and headers:get(":status") == "429" then
    headers:replace(":status", "413")
  end
  local content_type = headers:get("content-type") or ""
  if content_type:find("^application/json") or content_type:find("^text/event%-stream") then
    -- The compressor drops the etag, because gzip changes the bytes. Our etag stands for the resource, which If-Match guards, and nothing
    -- is cached: header_mutation restores it from this header.
    local etag = headers:get("etag")
    if etag then
      headers:replace("x-ameide-etag", etag)
    end
    for _, name in ipairs(OF_GRPC) do
      headers:remove(name)
    end
  end
  local is_known = headers:get("x-ameide-not-modified")
  if is_known then
    -- The service sent an empty message, whose JSON nobody wants (RFC 9110, section 15.4.5).
    headers:replace(":status", "304")
    for _, name in ipairs({"x-ameide-not-modified", "content-type", "content-length"}) do
      headers:remove(name)
    end
  end
  if is_known or (handle:streamInfo():dynamicMetadata():get("ameide.edge") or {}).head then
    for chunk in handle:bodyChunks() do
      chunk:setBytes("")
    end
  end
end

-- Corrects responses after the transcoder, which Connect shares with REST.
local stream = require("lua.connect_reply").stream
local OF_GRPC = {"grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding", "grpc-accept-encoding"}

function envoy_on_response(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local connect, content_type = metadata:get("ameide.connect"), headers:get("content-type") or ""
  if not connect and content_type:find("^application/grpc") then
    return
  end
  -- A JSON body of 10 MiB can be a larger message (numbers grow), which the service refuses with RESOURCE_EXHAUSTED. The transcoder
  -- makes 429 of that, and clients would repeat the request.
  if not connect and headers:get("error-type") == "PAYLOAD_TOO_LARGE" and headers:get(":status") == "429" then
    headers:replace(":status", "413")
  end
  local is_json = content_type:find("^application/json") or content_type:find("^text/event%-stream")
  -- The compressor drops the etag, because gzip changes the bytes. Our etag stands for the resource, which If-Match guards, and nothing
  -- is cached: header_mutation restores it from this header.
  local etag = (is_json or connect) and headers:get("etag")
  if etag then
    headers:replace("x-ameide-etag", etag)
  end
  local is_stream = connect and connect.shape == "stream"
  if is_json and not is_stream then
    for _, name in ipairs(OF_GRPC) do
      headers:remove(name)
    end
  elseif connect then
    headers:remove("grpc-accept-encoding")
  end
  local is_known = headers:get("x-ameide-not-modified")
  if is_known then
    -- The service sent an empty message, whose JSON nobody wants (RFC 9110, section 15.4.5).
    headers:replace(":status", "304")
    for _, name in ipairs({"x-ameide-not-modified", "content-type", "content-length"}) do
      headers:remove(name)
    end
  end
  if is_stream and content_type:find("^text/event%-stream") then
    stream(handle, headers)
  elseif content_type:find("^text/event%-stream") then
    -- Says of each event what its client sends as Last-Event-ID when it comes back. Each chunk has whole events.
    for chunk in handle:bodyChunks() do
      chunk:setBytes((chunk:getBytes(0, chunk:length()):gsub('data: {"resumeToken":"([^"]+)"', "id: %1\n%0")))
    end
  elseif is_known or (metadata:get("ameide.edge") or {}).head then
    for chunk in handle:bodyChunks() do
      chunk:setBytes("")
    end
  end
end

-- Answers in Connect: errors, and the messages of a stream in JSON (ADR 40).
local STATUS = require("lua.status")

-- By the code of gRPC: Connect's name and HTTP status (connectrpc.com/docs/protocol).
local CODES = {
  {"canceled", "499"}, {"unknown", "500"}, {"invalid_argument", "400"}, {"deadline_exceeded", "504"}, {"not_found", "404"},
  {"already_exists", "409"}, {"permission_denied", "403"}, {"resource_exhausted", "429"}, {"failed_precondition", "400"},
  {"aborted", "409"}, {"out_of_range", "400"}, {"unimplemented", "501"}, {"internal", "500"}, {"unavailable", "503"},
  {"data_loss", "500"}, {"unauthenticated", "401"},
}
local OF_GRPC = {"grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding", "grpc-accept-encoding"}

local connect_reply = {}

function connect_reply.quoted(text)
  return '"' .. text:gsub('[%c"\\]', function(character)
    return ("\\u%04x"):format(character:byte())
  end) .. '"'
end

-- Returns one message of a stream with its flags and its length before it.
local function envelope(flags, message)
  local size = #message
  local high, low = math.floor(size / 65536), size % 65536
  return string.char(flags, math.floor(high / 256), high % 256, math.floor(low / 256), low % 256) .. message
end

local quoted = connect_reply.quoted

-- Answers with an error in place of what the response is; `packed` is its google.rpc.Status.
function connect_reply.refuse(handle, headers, request, packed)
  local code, message, details = STATUS.read(packed)
  local name, http_status = unpack(CODES[code] or CODES[2])
  local said = {}
  for number, detail in ipairs(details) do
    local value = handle:base64Escape(detail.value):gsub("=", "")
    said[number] = ('{"type":%s,"value":"%s"}'):format(quoted(detail.name), value)
  end
  local text = ('{"code":"%s","message":%s,"details":[%s]}'):format(name, quoted(message), table.concat(said, ","))
  for _, one in ipairs(OF_GRPC) do
    headers:remove(one)
  end
  if request.shape == "stream" then
    headers:replace(":status", "200")
    headers:replace("content-type", "application/connect+" .. request.codec)
    text = envelope(2, '{"error":' .. text .. "}")
  else
    headers:replace(":status", http_status)
    headers:replace("content-type", "application/json")
  end
  -- Last: these headers cannot be changed any more once the body has been waited for.
  handle:body(true):setBytes(text)
end

-- Names the types of details in the trailers as Connect does: without a prefix.
function connect_reply.name_details(handle)
  local trailers = handle:trailers()
  local found = trailers and trailers:get("grpc-status-details-bin")
  local packed = found and STATUS.from_base64(found)
  if not packed then
    return
  end
  local code, message, details = STATUS.read(packed)
  local parts = {string.char(0x08, code), STATUS.field(0x12, message)}
  for _, detail in ipairs(details) do
    parts[#parts + 1] = STATUS.field(0x1a, STATUS.field(0x0a, detail.name) .. STATUS.field(0x12, detail.value))
  end
  trailers:replace("grpc-status-details-bin", handle:base64Escape(table.concat(parts)))
end

-- Makes messages of gRPC of the server-sent events that the transcoder has made; the next filter makes Connect of them. Each chunk has
-- whole events.
function connect_reply.stream(handle, headers)
  headers:replace("content-type", "application/grpc+json")
  for chunk in handle:bodyChunks() do
    local messages = {}
    for message in chunk:getBytes(0, chunk:length()):gmatch("data: ([^\n]*)\n\n") do
      messages[#messages + 1] = envelope(0, message)
    end
    chunk:setBytes(table.concat(messages))
  end
end

return connect_reply

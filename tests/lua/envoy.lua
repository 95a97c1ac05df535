-- What Envoy gives a filter, made of tables: the part of its API that envoy/lua/ uses. Returns what the filter did, and the handle.

-- Envoy's LuaJIT asks objects how to walk over them, as Lua 5.2 does; the tests' does not.
local plain_pairs = pairs
function pairs(value)
  local meta = getmetatable(value)
  return (meta and meta.__pairs or plain_pairs)(value)
end

return function(headers, content, metadata)
  local seen = {headers = headers, metadata = metadata}
  local fields = {
    get = function(_, name)
      return headers[name]
    end,
    replace = function(_, name, value)
      headers[name] = value
    end,
    remove = function(_, name)
      headers[name] = nil
    end,
  }
  setmetatable(fields, {
    __pairs = function()
      return plain_pairs(headers)
    end,
  })
  local body = {
    length = function()
      return #content
    end,
    getBytes = function(_, start, size)
      return content:sub(start + 1, start + size)
    end,
  }
  local dynamic = {
    get = function(_, name)
      return metadata[name]
    end,
    set = function(_, name, key, value)
      metadata[name] = metadata[name] or {}
      metadata[name][key] = value
    end,
  }
  local info = {
    dynamicMetadata = function()
      return dynamic
    end,
    downstreamRemoteAddress = function()
      return metadata.address
    end,
  }
  return seen, {
    headers = function()
      return fields
    end,
    body = function()
      return content ~= "" and body or nil
    end,
    -- The content of an answer is for tests with Envoy.
    bodyChunks = function()
      return function() end
    end,
    streamInfo = function()
      return info
    end,
    virtualHost = function()
      return {metadata = function()
        return {get = function(_, name)
          return (metadata.host or {connect = true})[name]
        end}
      end}
    end,
    -- Of the route.
    metadata = function()
      return {get = function(_, name)
        return (metadata.route or {})[name]
      end}
    end,
    respond = function(_, answer, text)
      assert(text == "" or answer[":status"] == "200", "local_reply_config writes bodies of refusals")
      seen.status, seen.allow, seen.text = answer[":status"], answer.allow, text
    end,
    -- The test reads the bytes.
    base64Escape = function(_, bytes)
      return bytes
    end,
    logErr = function(_, text)
      error(text)
    end,
  }
end

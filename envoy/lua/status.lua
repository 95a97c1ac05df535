-- Reads and writes google.rpc.Status as protobuf, and reads base64.
local byte, char, sub = string.byte, string.char, string.sub
local PREFIX = "type.googleapis.com/"

local SIX = {}
for place, digit in ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):gmatch("()(.)") do
  SIX[byte(digit)] = place - 1
end
-- The alphabet of URLs differs in two digits.
SIX[byte("-")], SIX[byte("_")] = SIX[byte("+")], SIX[byte("/")]

local status = {}

-- Returns the bytes that a text in base64 stands for, or nil if it is none. The padding may be missing.
function status.from_base64(text)
  local digits = text:match("^([%w+/_-]*)=?=?$")
  if not digits or #digits % 4 == 1 then
    return nil
  end
  local bytes, held, bits = {}, 0, 0
  for place = 1, #digits do
    held, bits = held * 64 + SIX[byte(digits, place)], bits + 6
    if bits >= 8 then
      bits = bits - 8
      bytes[#bytes + 1] = char(math.floor(held / 2 ^ bits))
      held = held % 2 ^ bits
    end
  end
  return held == 0 and table.concat(bytes) or nil
end

function status.varint(number)
  local encoded = ""
  while number >= 128 do
    encoded, number = encoded .. char(128 + number % 128), math.floor(number / 128)
  end
  return encoded .. char(number)
end

-- Encodes a length-delimited protobuf field.
function status.field(tag, value)
  return char(tag) .. status.varint(#value) .. value
end

local field = status.field

function status.detail(name, value)
  return field(0x1a, field(0x0a, PREFIX .. "google.rpc." .. name) .. field(0x12, value))
end

-- Walks over the fields of a message that holds numbers, texts and messages.
local function fields(message)
  local at = 1
  local function number()
    local value, scale, digit = 0, 1, nil
    repeat
      digit = byte(message, at)
      value, scale, at = value + digit % 128 * scale, scale * 128, at + 1
    until digit < 128
    return value
  end
  return function()
    if at > #message then
      return nil
    end
    local tag, value = number(), number()
    if tag % 8 == 2 then
      at = at + value
      value = sub(message, at - value, at - 1)
    end
    return tag, value
  end
end

-- Returns code, message and details of a status: a list of names, without the prefix of their types, and values.
function status.read(packed)
  local code, message, details = 0, "", {}
  for tag, value in fields(packed) do
    if tag == 0x08 then
      code = value
    elseif tag == 0x12 then
      message = value
    elseif tag == 0x1a then
      local detail = {name = "", value = ""}
      for part, content in fields(value) do
        if part == 0x0a then
          detail.name = content:gsub("^type%.googleapis%.com/", "")
        elseif part == 0x12 then
          detail.value = content
        end
      end
      details[#details + 1] = detail
    end
  end
  return code, message, details
end

return status

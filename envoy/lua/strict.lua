-- Refuses bodies of gRPC and Connect that are not exactly one message, for which gRPC in the service would wait until the deadline, and
-- REST requests that the transcoder would change: it ignores unknown fields, takes the last of two duplicates, and reads more than JSON
-- (ADR 16). `make proto` writes types.lua and rest_routes.lua, which say what a request may hold.
--
-- A body is read once, from left to right, and nothing is built of it. Nothing is left for the transcoder to refuse, because its
-- refusals name no field.
local RPCS, TYPES, find_route = require("rpcs"), require("types"), require("lua.find_route")
local quoted = require("lua.connect_reply").quoted

-- A gRPC message may nest a hundred levels deep, of which a level of a Struct takes three.
local MAX_DEPTH = 32
-- Each value takes the edge about two microseconds, whatever its size, and its worker serves no other request meanwhile. A member of a
-- JSON object or a map counts twice. No service takes as many: it takes 12,000 fields, and a member has three or four of them.
local MAX_VALUES = 20000
-- No service takes a text of more than 256 KiB, and an escape has six bytes for one.
local MAX_TEXT = 6 * 262144
-- The buffer filter lets five bytes more pass for RPCs by their own paths, for the frame.
local MAX_BYTES = 10485760
-- The client gets 400 (`local_reply_config`). Of 400 Envoy itself thinks that the connection is broken, and closes one of HTTP/1.1.
local REFUSED = "422"
-- More than any number needs. A number of a million digits would keep the transcoder busy for seconds.
local MAX_DIGITS = 1000

local byte, find, sub = string.byte, string.find, string.sub
local QUOTE, COMMA, COLON, BACKSLASH, MINUS = byte('",:\\-', 1, 5)
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = byte("{}[]", 1, 4)
local ESCAPES = {[byte("b")] = "\b", [byte("f")] = "\f", [byte("n")] = "\n", [byte("r")] = "\r", [byte("t")] = "\t"}
for character in ('"\\/'):gmatch(".") do
  ESCAPES[byte(character)] = character
end
local HEX = {}
for digit = 0, 15 do
  HEX[byte(("%x"):format(digit))], HEX[byte(("%X"):format(digit))] = digit, digit
end

-- The body and the next byte to read; how many values may still come; the path to the current value, of names and indexes, and at
-- which of its levels a name is a member of a JSON object or a map; the prefix of that path; the values that the request's path binds;
-- those that the body spells differently; the fields that an update may write, and those of them that the body names.
local text, at, values_left
local way, is_member, depth = {}, {}, 0
local prefix, bound, respelled, masked, named
-- For each of the three outermost levels the text and the members of the values of its current object, if somebody wants to know.
local captured

local function refuse(description, reason)
  local field = prefix
  for level = 1, depth do
    local step = way[level]
    step = type(step) == "number" and ("[%d]"):format(step) or (is_member[level] and "[" .. step .. "]" or step):sub(1, 64)
    field = field .. (step:find("^%[") and "" or ".") .. step
  end
  error({field = field:gsub("^%.", ""), description = description, reason = reason or "INVALID_FORMAT"}, 0)
end

local function refuse_body(description, reason)
  error({field = "", description = "The body " .. description, reason = reason}, 0)
end

local function refuse_text()
  refuse_body(("is not JSON: it goes wrong at byte %d of %d."):format(at, #text), "INVALID_FORMAT")
end

-- Moves to the next byte that is not blank, and returns it.
local function peek()
  local c = byte(text, at)
  while c == 32 or c == 10 or c == 13 or c == 9 do
    at = at + 1
    c = byte(text, at)
  end
  return c
end

local function code_unit(position)
  local a, b, c, d = byte(text, position, position + 3)
  if not d then
    return nil
  end
  a, b, c, d = HEX[a], HEX[b], HEX[c], HEX[d]
  return a and b and c and d and ((a * 16 + b) * 16 + c) * 16 + d
end

local function pass_escape()
  local c = byte(text, at + 1)
  if ESCAPES[c] then
    at = at + 2
    return
  end
  local unit = c == 117 and code_unit(at + 2)
  if not unit then
    refuse_text()
  end
  if unit >= 0xD800 and unit < 0xE000 then
    -- A surrogate: the second half of the pair must follow.
    local low = byte(text, at + 6) == BACKSLASH and byte(text, at + 7) == 117 and code_unit(at + 8)
    if unit >= 0xDC00 or not low or low < 0xDC00 or low >= 0xE000 then
      refuse_text()
    end
    at = at + 6
  end
  at = at + 6
end

-- Returns how many bytes the character has that begins with a byte above 127, or nil if it is not UTF-8 (RFC 3629).
local function character_size(source, position)
  local a, b, c, d = byte(source, position, position + 3)
  local least = a == 0xE0 and 0xA0 or a == 0xF0 and 0x90 or 0x80
  local most = a == 0xED and 0x9F or a == 0xF4 and 0x8F or 0xBF
  if a < 0xC2 or a > 0xF4 or not b or b < least or b > most then
    return nil
  elseif a < 0xE0 then
    return 2
  elseif not c or c < 0x80 or c > 0xBF then
    return nil
  elseif a < 0xF0 then
    return 3
  end
  return d and d >= 0x80 and d <= 0xBF and 4 or nil
end

-- Moves behind the string that starts here, and returns where its content begins and ends, and whether it has escapes.
local function pass_string()
  local start, has_escapes = at + 1, false
  local last = start + MAX_TEXT
  at = start
  while at <= last do
    local c = byte(text, at)
    if c == QUOTE then
      at = at + 1
      return start, at - 2, has_escapes
    elseif c == BACKSLASH then
      has_escapes = true
      pass_escape()
    elseif not c or c < 32 then
      refuse_text()
    else
      local size = c < 128 and 1 or character_size(text, at)
      if not size then
        refuse_text()
      end
      at = at + size
    end
  end
  refuse_body(("holds a text of more than %d bytes."):format(MAX_TEXT), "TOO_LONG")
end

local function utf8(unit)
  if unit < 0x80 then
    return string.char(unit)
  elseif unit < 0x800 then
    return string.char(0xC0 + math.floor(unit / 64), 0x80 + unit % 64)
  end
  return string.char(0xE0 + math.floor(unit / 4096), 0x80 + math.floor(unit / 64) % 64, 0x80 + unit % 64)
end

-- Moves behind the string that starts here, and returns its content.
local function read_string()
  local first, last, has_escapes = pass_string()
  local content = sub(text, first, last)
  if not has_escapes then
    return content
  end
  return (content:gsub("\\(.)(%x?%x?%x?%x?)", function(kind, rest)
    return kind == "u" and utf8(tonumber(rest, 16)) or ESCAPES[byte(kind)] .. rest
  end))
end

-- Returns where the number ends that starts at `position` of `source`, if one does.
local function number_end(source, position)
  local _, last = find(source, "^-?%d+", position)
  if not last or find(source, "^-?0%d", position) then
    return nil
  end
  local _, fraction = find(source, "^%.%d+", last + 1)
  local _, exponent = find(source, "^[eE][-+]?%d+", (fraction or last) + 1)
  last = exponent or fraction or last
  return last - position < MAX_DIGITS and last or nil
end

-- Moves behind one of these words, if it is here.
local function pass_word(...)
  for _, word in ipairs({...}) do
    if sub(text, at, at + #word - 1) == word then
      at = at + #word
      return true
    end
  end
  return false
end

-- Moves behind a number, which may be in quotes, and returns its text.
local function read_number(description, names, reason)
  if byte(text, at) == QUOTE then
    -- As a string, too: JavaScript loses digits of large ones.
    local content = read_string()
    if not names[content] and number_end(content, 1) ~= #content then
      refuse(description, reason)
    end
    return content
  end
  local first, last = at, number_end(text, at)
  if not last then
    refuse(description, reason)
  end
  at = last + 1
  return sub(text, first, last)
end

-- The least and the most of each kind of integer.
local INTEGERS = {
  int32 = {least = "-2147483648", most = "2147483647"},
  uint32 = {least = "0", most = "4294967295"},
  int64 = {least = "-9223372036854775808", most = "9223372036854775807"},
  uint64 = {least = "0", most = "18446744073709551615"},
}

-- Returns the digits of a whole number, without the zeros before them; nil for every other number.
local function whole(number)
  if not find(number, "^-?%d+$") then
    local value = tonumber(number)
    if not value or value ~= math.floor(value) or math.abs(value) > 2 ^ 64 then
      return nil
    end
    number = ("%.0f"):format(value)
  end
  return number:match("^-?0*(%d+)$"), byte(number) == MINUS
end

-- Whether digits are no integer of a kind. They are compared as texts, because a double does not hold 64 bits.
local function is_beyond(digits, is_negative, range)
  local bound = (is_negative and range.least or range.most):match("%d+")
  return #digits > #bound or #digits == #bound and digits > bound
end

-- Refuses the text of a number that is no integer of a kind.
local function check_integer(number, range)
  local digits, is_negative = whole(number)
  if not digits then
    refuse("must be a whole number")
  elseif is_beyond(digits, is_negative, range) then
    refuse(("must be from %s to %s"):format(range.least, range.most), "OUT_OF_RANGE")
  end
end

local function count_value()
  values_left = values_left - 1
  if values_left < 0 then
    refuse_body(("holds more than %d values."):format(MAX_VALUES), "TOO_LONG")
  end
end

local read, read_field

local function enter()
  depth = depth + 1
  at = at + 1
  if depth > MAX_DEPTH then
    refuse_body(("nests more than %d levels deep."):format(MAX_DEPTH), "TOO_LONG")
  end
end

-- Moves behind a comma and returns true if another element follows; otherwise moves to `close`.
local function another(close)
  if peek() == close then
    return false
  end
  if byte(text, at) ~= COMMA then
    refuse_text()
  end
  at = at + 1
  if peek() == close then
    refuse_text()
  end
  return true
end

-- Reads an object: a message if there are `fields`, otherwise a map of any names to values of one kind.
local function read_object(fields, kind)
  if byte(text, at) ~= OPEN_OBJECT then
    refuse("must be an object")
  end
  enter()
  local seen = {}
  local more = peek() ~= CLOSE_OBJECT
  while more do
    if byte(text, at) ~= QUOTE then
      refuse_text()
    end
    local name = read_string()
    local field = fields and fields[name]
    if field then
      name = field.name
    end
    way[depth], is_member[depth] = name, not fields
    if fields and not field then
      refuse("is unknown", "UNKNOWN")
    end
    if seen[name] then
      refuse("is there twice", "DUPLICATE")
    end
    local group = field and field.oneof
    if group and seen[group] then
      refuse("is there beside another field that excludes it", "CONFLICT")
    end
    seen[name] = true
    if group then
      seen[group] = true
    end
    if depth == 1 and masked[name] then
      named[#named + 1] = name
    end
    if peek() ~= COLON then
      refuse_text()
    end
    at = at + 1
    peek()
    local start, level = at, captured and captured[depth]
    if level then
      captured[depth + 1] = depth < 3 and {} or nil
    end
    if field then
      read_field(field)
    else
      count_value()
      read(kind)
    end
    if level then
      level[name] = {text = sub(text, start, at - 1), members = captured[depth + 1]}
    end
    more = another(CLOSE_OBJECT)
  end
  at = at + 1
  depth = depth - 1
end

local function read_list(kind)
  if byte(text, at) ~= OPEN_LIST then
    refuse("must be a list")
  end
  enter()
  local more, number = peek() ~= CLOSE_LIST, 0
  while more do
    way[depth] = number
    number = number + 1
    read(kind)
    more = another(CLOSE_LIST)
  end
  at = at + 1
  depth = depth - 1
end

-- The digits of a number, without the zeros around them.
local function significant(number)
  return (number:match("^[^eE]*"):gsub("[-.]", ""):gsub("^0+", ""):gsub("0+$", ""))
end

-- Whether a double keeps every digit of a number. Fractions have always been approximations; beyond 2^53 whole numbers are, too.
local function is_held(number)
  -- LuaJIT reads no number whose exponent is 2^20 or more, nor -2^20 or less.
  local value = tonumber(number)
  if not value then
    return false
  end
  value = math.abs(value)
  if value < 2 ^ 53 then
    return true
  end
  local digits = significant(number)
  -- LuaJIT prints at most 99 digits.
  return value < math.huge and #digits < 100 and significant(("%%.%de"):format(#digits - 1):format(value)) == digits
end

local MONTHS = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

local function days_of(year, month)
  local is_leap = year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  return month == 2 and is_leap and 29 or MONTHS[month] or 0
end

local function numbers(first, ...)
  if first then
    return tonumber(first), numbers(...)
  end
end

-- Refuses a text that is no time of RFC 3339, or is none that google.protobuf.Timestamp holds.
local function check_time(content)
  local date, fraction, zone = content:match("^(%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d)(%.?%d*)(.*)$")
  local sign, ahead = (zone == "Z" and "+00:00" or zone or ""):match("^([+-])(%d%d:%d%d)$")
  if not sign or #fraction > 10 or fraction ~= "" and not find(fraction, "^%.%d") then
    refuse('must be a time like "2030-01-31T00:00:00Z"')
  end
  local year, month, day, hour, minute, second = numbers(date:match("^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)$"))
  local hours_ahead, minutes_ahead = numbers(ahead:match("^(%d+):(%d+)$"))
  -- Of the same day in UTC.
  local minutes = hour * 60 + minute - (hours_ahead * 60 + minutes_ahead) * (sign == "+" and 1 or -1)
  if year < 1 or day < 1 or day > days_of(year, month) or hour > 23 or minute > 59 or second > 59
    or hours_ahead > 23 or minutes_ahead > 59
    or date:sub(1, 10) == "0001-01-01" and minutes < 0 or date:sub(1, 10) == "9999-12-31" and minutes >= 1440 then
    refuse("must be a time of the calendar, from year 1 to year 9999", "OUT_OF_RANGE")
  end
end

-- What google.protobuf.Duration holds.
local MAX_SECONDS = 315576000000
local MASK = "must be names of fields with commas between them"

local function is_mask(content)
  return find(content, "^[%w_.,* ]*$") ~= nil
end

local NONE, NOT_FINITE = {}, {["NaN"] = true, ["Infinity"] = true, ["-Infinity"] = true}
local KINDS = {
  string = function()
    if byte(text, at) ~= QUOTE then
      refuse("must be a string")
    end
    pass_string()
  end,
  bool = function()
    if not pass_word("true", "false") then
      refuse("must be true or false")
    end
  end,
  timestamp = function()
    check_time(byte(text, at) == QUOTE and read_string() or "")
  end,
  duration = function()
    local content = byte(text, at) == QUOTE and read_string() or ""
    local seconds, fraction = content:match("^%-?(%d+)(%.?%d*)s$")
    if not seconds or #fraction > 10 or fraction ~= "" and not find(fraction, "^%.%d") then
      refuse('must be a duration in seconds like "3600s"')
    elseif tonumber(seconds) > MAX_SECONDS or tonumber(seconds) == MAX_SECONDS and find(fraction, "[1-9]") then
      refuse(("must be at most %.0f seconds"):format(MAX_SECONDS), "OUT_OF_RANGE")
    end
  end,
  bytes = function()
    local digits, padding = (byte(text, at) == QUOTE and read_string() or "-"):match("^([%w+/_-]*)(=?=?)$")
    if not digits or #digits % 4 == 1 or find(digits, "[+/]") and find(digits, "[_-]")
      or padding ~= "" and (#digits + #padding) % 4 ~= 0 then
      refuse("must be bytes in base64")
    end
  end,
  mask = function()
    if byte(text, at) ~= QUOTE or not is_mask(read_string()) then
      refuse(MASK)
    end
  end,
  struct = function()
    read_object(nil, "any")
  end,
  array = function()
    read_list("any")
  end,
  any = function()
    local c = byte(text, at)
    if c == QUOTE then
      pass_string()
    elseif c == OPEN_OBJECT then
      read_object(nil, "any")
    elseif c == OPEN_LIST then
      read_list("any")
    elseif not pass_word("true", "false", "null") then
      local last = number_end(text, at)
      if not last then
        refuse_text()
      end
      if not is_held(sub(text, at, last)) then
        refuse("is a number that a double does not hold: send it as a string", "OUT_OF_RANGE")
      end
      at = last + 1
    end
  end,
}
for kind, range in pairs(INTEGERS) do
  KINDS[kind] = function()
    local is_text = byte(text, at) == QUOTE
    local number = read_number("must be a whole number", NONE)
    -- In quotes the transcoder takes digits only.
    check_integer(is_text and find(number, "[^-%d]") and "" or number, range)
  end
end
-- The numbers that round to no float or double begin here.
for kind, least in pairs({float = 2 ^ 128 - 2 ^ 103, double = math.huge}) do
  KINDS[kind] = function()
    local number = read_number("must be a number", NOT_FINITE)
    if not NOT_FINITE[number] and math.abs(tonumber(number) or math.huge) >= least then
      refuse("is too large", "OUT_OF_RANGE")
    end
  end
end
for name, type in pairs(TYPES) do
  if type.fields then
    KINDS[name] = function()
      read_object(type.fields)
    end
  else
    KINDS[name] = function()
      if byte(text, at) == QUOTE then
        if not type.values[read_string()] then
          refuse(type.description, "INVALID_VALUE")
        end
      else
        local digits, is_negative = whole(read_number(type.description, NONE, "INVALID_VALUE"))
        if not digits or is_beyond(digits, is_negative, INTEGERS.int32) then
          refuse(type.description, "INVALID_VALUE")
        end
      end
    end
  end
end

function read(kind)
  count_value()
  KINDS[kind]()
end

local UUID = "^" .. table.concat({("%x"):rep(8), ("%x"):rep(4), ("%x"):rep(4), ("%x"):rep(4), ("%x"):rep(12)}, "%-") .. "$"

-- Whether two texts are one UUID, which has no case (RFC 9562, section 4).
local function is_same_id(one, other)
  return one:lower() == other:lower() and find(one, UUID) ~= nil
end

-- Reads the value of a message's field; null stands for an absent field.
function read_field(field)
  local start = at
  if field.kind ~= "any" and pass_word("null") then
    return
  elseif field.form == "list" then
    read_list(field.kind)
  elseif field.form == "map" then
    read_object(nil, field.kind)
  else
    read(field.kind)
    local said = depth == 1 and bound[field.name]
    if said then
      local stop = at
      at = start
      local repeated = byte(text, at) == QUOTE and read_string() or sub(text, start, stop - 1)
      at = stop
      if repeated ~= said then
        if not is_same_id(repeated, said) then
          refuse("is not what the path says", "CONFLICT")
        end
        respelled[said] = repeated
      end
    end
  end
end

local function read_body(type)
  peek()
  read(type)
  if peek() then
    refuse_text()
  end
end

local function is_utf8(value)
  local position = find(value, "[\128-\255]")
  while position do
    local size = character_size(value, position)
    if not size then
      return false
    end
    position = find(value, "[\128-\255]", position + size)
  end
  return true
end

local function unescape(value)
  return (value:gsub("%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end))
end

local function check_query(query, parameters)
  local seen = {}
  for pair in query:gmatch("[^&]+") do
    local key, equals, value = pair:match("^([^=]*)(=?)(.*)$")
    local parameter = parameters[key]
    prefix = key:sub(1, 64)
    if not parameter then
      refuse("is unknown", "UNKNOWN")
    end
    prefix = parameter.name
    if equals == "" then
      refuse("needs a value", "REQUIRED")
    elseif seen[parameter.name] and not parameter.many then
      refuse("is there twice", "DUPLICATE")
    elseif parameter.kind == "bool" and value ~= "true" and value ~= "false" then
      refuse("must be true or false")
    elseif INTEGERS[parameter.kind] then
      check_integer(find(value, "^-?%d+$") and value or "", INTEGERS[parameter.kind])
    elseif TYPES[parameter.kind] and not TYPES[parameter.kind].values[value] then
      refuse(TYPES[parameter.kind].description, "INVALID_VALUE")
    elseif not is_utf8(unescape(value)) then
      refuse("is not UTF-8")
    elseif parameter.kind == "mask" and not is_mask(unescape(value)) then
      refuse(MASK)
    end
    seen[parameter.name] = true
  end
end

local function check_path(values, names)
  for number, value in ipairs(values) do
    prefix = names[number]
    if not is_utf8(value) then
      refuse("is not UTF-8")
    end
  end
end

local ANY_OBJECT = {prefix = "", type = "struct", bound = {}}

local function check_body(content, body, values)
  if not body then
    -- Many clients send the empty object where nothing is expected.
    if find(content, "^%s*{%s*}%s*$") then
      return
    end
    refuse_body("must be empty: this method takes none.", "NOT_ALLOWED")
  end
  text, at, values_left = content, 1, MAX_VALUES
  prefix, bound, masked = body.prefix, {}, body.masked or NONE
  for name, number in pairs(body.bound) do
    bound[name] = values[number]
  end
  read_body(body.type)
end

local function is_json(content_type)
  if content_type == "application/json" then
    return true
  end
  local plain = content_type:lower():gsub('[%s"]', "")
  return plain == "application/json" or plain == "application/json;charset=utf-8"
end

-- Whether a body is a byte of flags, the length of a message, and that message. One that is compressed needs an encoding: gRPC says
-- INTERNAL without, which is for defects of ours.
local function is_one_message(body, encoding)
  if not body or body:length() < 5 then
    return false
  end
  local flags, a, b, c, d = byte(body:getBytes(0, 5), 1, 5)
  return flags <= (encoding and encoding ~= "identity" and 1 or 0) and ((a * 256 + b) * 256 + c) * 256 + d == body:length() - 5
end

local function answer(handle, refusal)
  if type(refusal) ~= "table" then
    handle:logErr(refusal)
    handle:respond({[":status"] = "500"}, "")
    return
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  refusal.message = refusal.field == "" and refusal.description or refusal.field .. " " .. refusal.description .. "."
  for name, said in pairs(refusal) do
    metadata:set("strict", name, said)
    -- What stands in the text of JSON. A name may have been cut amid a character, and one in a query may be any bytes.
    metadata:set("strict.json", name, quoted(is_utf8(said) and said or said:gsub("[\128-\255]", "?")):sub(2, -2))
  end
  handle:respond({[":status"] = REFUSED}, "")
end

-- Writes into the URL what the transcoder needs to know of the body: the ids of the path as the body spells them, because it compares
-- texts; for an update without a mask the fields that the body names, because it does not pass on those that are empty; and for a
-- stream of events the last one that its client has, which says more than the URL of its first request.
local function pass_on(handle, path, query, last_event)
  local asked = query
  for said, repeated in pairs(respelled) do
    local first, last = find(path, said, 1, true)
    path = first and sub(path, 1, first - 1) .. repeated .. sub(path, last + 1) or path
  end
  if #named > 0 and not find("&" .. query, "&update_?[mM]ask=") then
    query = query .. (query == "" and "" or "&") .. "updateMask=" .. table.concat(named, ",")
  end
  if last_event then
    query = (("&" .. query):gsub("&resume_?[tT]oken=[^&]*", "") .. "&resumeToken=" .. last_event):gsub("^&+", "")
  end
  if next(respelled) or query ~= asked then
    handle:headers():replace(":path", query == "" and path or path .. "?" .. query)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path, query = headers:get(":path"):match("^([^?]*)%??(.*)$")
  local route, values = find_route(headers:get(":method"), path)
  local codec = RPCS[path] and (headers:get("content-type") or ""):match("^application/grpc(.*)")
  local metadata = handle:streamInfo():dynamicMetadata()
  if route then
    -- For the limits behind the transcoder.
    metadata:set("ameide.identity", "class", route.class)
  end
  if not codec then
    -- For errors.lua.
    metadata:set("ameide.edge", "rest", true)
  end
  if codec == "+proto" then
    -- Connect in protobuf.
    headers:replace("content-type", "application/grpc")
  end
  local encoding = codec and headers:get("grpc-encoding")
  if codec and not is_one_message(handle:body(), encoding) then
    handle:respond({[":status"] = REFUSED}, "")
    return
  elseif not route or codec and codec ~= "+json" then
    return
  elseif codec then
    -- A stream of Connect in JSON: what is in the frame is for the transcoder.
    local body = handle:body()
    body:setBytes(body:getBytes(5, body:length() - 5))
    headers = handle:headers()
    headers:replace("content-type", "application/json")
  end
  local last_event = route.stream and headers:get("last-event-id")
  local is_read = is_json(headers:get("content-type") or "application/json") and not headers:get("content-encoding")
  -- The headers cannot be asked any more once the body has been waited for.
  local buffer = handle:body()
  local size = buffer and buffer:length() or 0
  if size > MAX_BYTES then
    handle:respond({[":status"] = "413"}, "")
    return
  end
  if size > 0 and not is_read then
    local connect = handle:streamInfo():dynamicMetadata():get("ameide.connect")
    -- Connect has a code for a compression that nobody reads.
    handle:respond({[":status"] = connect and "501" or "415"}, "")
    return
  end
  depth, respelled, named = 0, {}, {}
  local passed, refusal = pcall(check_path, values, route.variables)
  if passed and query ~= "" then
    passed, refusal = pcall(check_query, query, route.query)
  end
  if passed and size > 0 then
    passed, refusal = pcall(check_body, buffer:getBytes(0, size), route.body, values)
  end
  text = nil
  if passed then
    pass_on(handle, path, query, last_event)
  end
  if not passed then
    answer(handle, refusal)
  end
end

-- For mcp.lua.
return {
  -- Reads a body that is any object, and returns the text of each of its values, and the members of those that are objects themselves,
  -- or refuses the request.
  read_members = function(handle)
    local buffer = handle:body()
    local found = {}
    depth, respelled, captured = 0, {}, {found}
    local passed, refusal = pcall(check_body, buffer and buffer:getBytes(0, buffer:length()) or "", ANY_OBJECT, {})
    text, captured = nil, nil
    if passed then
      return found
    end
    answer(handle, refusal)
  end,

  -- Returns the content of a string that has been read, or nil if it was something else.
  content_of = function(value)
    if byte(value) == QUOTE then
      text, at = value, 1
      local content = read_string()
      text = nil
      return content
    end
  end,
}

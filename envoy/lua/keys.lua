-- Spares the users service the API keys of an address that shows too many that do not work. The service bounds them exactly, but each costs
-- it a call; here each worker of Envoy counts for itself, so a few more pass. A key counts from when it is shown until it has worked:
-- otherwise a thousand at once would all be asked about. One that has worked lately does not count, whoever else is behind the address.
local PER_SECOND = 50
local REMEMBERED_SECONDS, MOST_REMEMBERED, LONGEST = 20, 1000, 200
local shown, second = {}, 0
local worked, worked_before, how_many, since = {}, {}, 0, 0

local function shown_now()
  if os.time() ~= second then
    shown, second = {}, os.time()
  end
  return shown
end

local function remember(key)
  if how_many >= MOST_REMEMBERED or os.time() - since >= REMEMBERED_SECONDS then
    worked_before, worked, how_many, since = worked, {}, 0, os.time()
  end
  if key ~= "" and not worked[key] then
    worked[key], how_many = true, how_many + 1
  end
end

function envoy_on_request(handle)
  local key = handle:headers():get("x-api-key")
  if not key then
    return
  end
  local info = handle:streamInfo()
  local address = info:downstreamRemoteAddress():match("^(.*):%d+$") or ""
  if #key > LONGEST or key:find("[^%w_.-]") then
    key = ""  -- Such a key cannot be right.
  end
  local counts, metadata = shown_now(), info:dynamicMetadata()
  if not (worked[key] or worked_before[key]) then
    if (counts[address] or 0) >= PER_SECOND then
      handle:respond({[":status"] = "429"}, "")
      return
    end
    counts[address] = (counts[address] or 0) + 1
    metadata:set("keys", "second", second)
  end
  metadata:set("keys", "address", address)
  metadata:set("keys", "key", key)
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local asked, headers = metadata:get("keys"), handle:headers()
  if not asked then
    return
  end
  local counts = shown_now()
  if headers:get(":status") == "401" or headers:get("grpc-status") == "16" then
    worked[asked.key], worked_before[asked.key] = nil, nil
    if not asked.second then
      counts[asked.address] = (counts[asked.address] or 0) + 1
    end
  elseif metadata:get("envoy.filters.http.jwt_authn") then
    -- Its token verified; other answers say nothing of the key.
    remember(asked.key)
    if asked.second == second then
      counts[asked.address] = counts[asked.address] - 1
    end
  end
end

-- Refuses verified tokens that the services would refuse, by claims that jwt_authn does not check, and tells the filters behind it whose
-- token it is. The environment brings two files: claims.lua says where tenant and roles are, audience.lua whom tokens must be meant for.
local CLAIMS, AUDIENCE = require("claims"), require("audience")
-- The paths that authentication.yaml opens to everybody.
local OPEN = require("open_paths")
local MAX_LIFETIME, SKEW = 86400, 5
-- The tokens that stand for an API key are our own.
local INTERNAL_ISSUER = "https://internal.ameide.local/"
local INTERNAL_CLAIMS = {tenant = {"tenant_id"}, roles = {"roles"}}

-- Returns what is at a path: nil if nothing is, false if something else is in the way.
local function at(value, path)
  for _, name in ipairs(path) do
    if value == nil then
      return nil
    elseif type(value) ~= "table" or value[1] ~= nil then
      return false
    end
    value = value[name]
  end
  return value
end

-- Whether `value` is a list of texts, with `wanted` among them if that is given.
local function is_list(value, wanted)
  if type(value) ~= "table" then
    return false
  end
  local found = wanted == nil
  for key, text in pairs(value) do
    if type(key) ~= "number" or type(text) ~= "string" then
      return false
    end
    found = found or text == wanted
  end
  return found
end

local function is_subject(value)
  if type(value) ~= "string" or value:find("%c") then
    return false
  end
  local _, characters = value:gsub("[^\128-\191]", "")
  return 0 < characters and characters <= 255
end

-- Whether the bits that base64 carries beyond the last byte are zero; if they could be set, a token would have several spellings.
local function is_canonical(token)
  -- The pattern begins with a dot. A search that may begin anywhere begins anew at each of a thousand bytes, which takes 0.5 ms.
  local signature = token:match("%.([^.]*)$")
  local last = signature and ({[0] = ".?", [2] = "[AQgw]", [3] = "[AEIMQUYcgkosw048]"})[#signature % 4]
  return last ~= nil and signature:sub(-1):find(last) ~= nil
end

local function is_tenant(value)
  return type(value) == "string" and #value <= 63 and value:find("^%w[%w_.-]*$") ~= nil
end

local function is_acceptable(header, claims, token)
  return is_canonical(token)
    and type(header.kid) == "string" and header.kid ~= "" and header.crit == nil
    and type(claims.exp) == "number" and type(claims.iat) == "number"
    and claims.iat <= os.time() + SKEW and claims.exp - claims.iat <= MAX_LIFETIME
    and (claims.aud == AUDIENCE or is_list(claims.aud, AUDIENCE))
    and is_subject(claims.sub)
    and (claims.email == nil or type(claims.email) == "string")
end

-- The identities that credentials have shown, until their tokens expire. When there are MAX_KNOWN, those that nobody has used since the
-- last such moment are dropped. Longer ones are not kept, for the memory.
local MAX_KNOWN, MAX_KNOWN_BYTES = 500, 8192
local known, known_before, count = {}, {}, 0

local function remember(credential, identity)
  if count == MAX_KNOWN then
    known, known_before, count = {}, known, 0
  end
  if not known[credential] then
    count = count + 1
  end
  known[credential] = identity
end

local function recall(credential)
  local identity = known[credential]
  if not identity and known_before[credential] then
    identity = known_before[credential]
    remember(credential, identity)
  end
  return identity and os.time() < identity.expires and identity
end

local function identify(verified, token)
  local claims = verified.claims
  local map = claims.iss == INTERNAL_ISSUER and INTERNAL_CLAIMS or CLAIMS
  local tenant = at(claims, map.tenant)
  local roles = at(claims, map.roles)
  if is_acceptable(verified.header, claims, token) and is_tenant(tenant) and (roles == nil or is_list(roles)) then
    return {tenant = tenant, principal = claims.sub, expires = claims.exp}
  end
end

-- Returns whose a request is; nil for one on an open path that shows no token; false if it has been refused.
return function(handle, headers, metadata, path)
  local is_open = OPEN[path]
  local credential = headers:get("authorization") or ""
  local identity = not is_open and recall(credential)
  if not identity then
    local verified = metadata:get("envoy.filters.http.jwt_authn")
    -- A request without a verified token passes on open paths only, even if authentication.yaml opened more.
    if not verified and is_open then
      return nil
    end
    local token = credential:match("^Bearer (.*)$") or ""
    identity = verified and identify(verified, token)
    if not identity then
      handle:respond({[":status"] = "401"}, "")
      return false
    end
    -- A token that stands for an API key comes once.
    if verified.claims.iss ~= INTERNAL_ISSUER and #token <= MAX_KNOWN_BYTES then
      remember(credential, identity)
    end
  end
  -- For the rate limits, which need not know where an issuer puts tenant and subject.
  metadata:set("ameide.identity", "tenant", identity.tenant)
  metadata:set("ameide.identity", "principal", identity.principal)
  return identity
end

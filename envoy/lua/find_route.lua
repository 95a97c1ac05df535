-- Finds the route of a REST request in the contract.
local ROUTES = require("rest_routes")

local function unescape(segment)
  if not segment:find("%", 1, true) then
    return segment
  end
  return (segment:gsub("%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end))
end

-- Returns the route of a path and the values of its variables.
return function(method, path)
  local node, values = ROUTES[method], {}
  local rest, verb
  if path:find(":", 1, true) then
    rest, verb = path:match("^(.*):([^:/]*)$")
  end
  for segment in (rest or path):gmatch("/([^/]*)") do
    if not node then
      return nil
    end
    if type(node[segment]) == "table" then
      node = node[segment]
    elseif segment ~= "" then
      node = node[2]
      values[#values + 1] = unescape(segment)
    else
      return nil
    end
  end
  return node and node[1] and node[1][verb or ""], values
end

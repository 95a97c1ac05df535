-- Finds the methods of a REST path, for the header Allow.
local ROUTES, OPEN, find_route = require("rest_routes"), require("open_paths"), require("lua.find_route")

local METHODS = {}
for method in pairs(ROUTES) do
  METHODS[#METHODS + 1] = method
end
table.sort(METHODS)

-- Returns the methods, or an empty text if nobody serves the path. HEAD of a stream would have no end.
return function(path)
  local found = {}
  for _, method in ipairs(METHODS) do
    local route = find_route(method, path) or OPEN[path] and method == "GET" and {}
    if route then
      found[#found + 1] = method
      if method == "GET" and not route.stream then
        found[#found + 1] = "HEAD"
      end
    end
  end
  if #found > 0 then
    found[#found + 1] = "OPTIONS"
  end
  return table.concat(found, ", ")
end

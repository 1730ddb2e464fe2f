-- Asks the gateway about a request with HAProxy's own HTTP client, and sets the headers of the answer, or sends the denial.
local GATEWAY = "http://gateway:8081/forward-auth"
local TIMEOUT = 2000 -- milliseconds
-- HAProxy's HTTP client ends the whole of HAProxy 2.6 if a question has nearly tune.http.maxhdr (101) headers.
local MOST_HEADERS = 80

-- Every identity header. Each is removed from the request before the gateway's value is set.
local IDENTITY = {
  "x-user-id", "x-user-roles", "x-user-tenant", "x-user-status", "x-user-missing",
  "x-auth-issuer", "x-auth-subject", "x-auth-scopes", "x-auth-stale",
}
-- Of one connection, or of a body that is not sent along (RFC 9110, 7.6.1).
local NOT_ASKED = {
  ["connection"] = true, ["keep-alive"] = true, ["proxy-connection"] = true, ["te"] = true, ["trailer"] = true,
  ["transfer-encoding"] = true, ["upgrade"] = true, ["content-length"] = true, ["expect"] = true, ["host"] = true,
}
-- Of the answer, what HAProxy writes itself.
local NOT_ANSWERED = { ["connection"] = true, ["content-length"] = true, ["transfer-encoding"] = true }

local TOO_MANY = { ["content-type"] = { [0] = "application/problem+json" } }

local function values(header)
  local found = {}
  for index = 0, #header do
    found[#found + 1] = header[index]
  end
  return found
end

local function answer(txn, status, headers, body)
  local reply = txn:reply()
  reply:set_status(status)
  for name, header in pairs(headers) do
    if not NOT_ANSWERED[name] then
      for _, value in ipairs(values(header)) do
        reply:add_header(name, value)
      end
    end
  end
  reply:set_body(body)
  txn:done(reply)
end

core.register_action("gateway", { "http-req" }, function(txn)
  local asked, number = {}, 0
  for name, header in pairs(txn.http:req_get_headers()) do
    if not NOT_ASKED[name] then
      asked[name] = values(header)
      number = number + #asked[name]
    end
  end
  if number > MOST_HEADERS then
    answer(txn, 431, TOO_MANY, '{"type":"about:blank","title":"Request Header Fields Too Large","status":431}')
    return
  end
  -- A client's own fields of these names are replaced.
  asked["x-forwarded-method"] = { txn.sf:method() }
  asked["x-forwarded-uri"] = { txn.sf:pathq() }
  asked["x-forwarded-host"] = { txn.sf:req_fhdr("host") }
  asked["x-forwarded-proto"] = { txn.f:ssl_fc() == 1 and "https" or "http" }
  local chain = asked["x-forwarded-for"] or {}
  chain[#chain + 1] = txn.sf:src()
  asked["x-forwarded-for"] = { table.concat(chain, ", ") }

  local told = core.httpclient():get { url = GATEWAY, headers = asked, timeout = TIMEOUT }
  if told == nil or told.status ~= 200 then
    answer(txn, told and told.status or 503, told and told.headers or {}, told and told.body or "")
    return
  end
  for _, name in ipairs(IDENTITY) do
    txn.http:req_del_header(name)
    local header = told.headers[name]
    if header ~= nil and header[0] ~= nil and header[0] ~= "" then
      txn.http:req_set_header(name, header[0])
    end
  end
end)

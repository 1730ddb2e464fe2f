-- Sends the tokens of a file in turn, and ends with one line of JSON: requests, seconds, latencies in
-- milliseconds, and how many requests failed in which way. The second argument is the workload: see load.py.

local BROWSER = table.concat({
  "Connection: keep-alive",
  'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
  "sec-ch-ua-mobile: ?0",
  'sec-ch-ua-platform: "Windows"',
  "User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    .. "Chrome/142.0.0.0 Safari/537.36",
  "Accept: application/json, text/plain, */*",
  "Sec-Fetch-Site: same-origin",
  "Sec-Fetch-Mode: cors",
  "Referer: https://shop.example.com/orders",
  "Accept-Encoding: gzip, deflate, br, zstd",
}, "\r\n") .. "\r\n"

local QUESTION = "GET /auth-request HTTP/1.1\r\nHost: gateway\r\nX-Original-Method: GET\r\n"
  .. "X-Original-Host: shop.example.com\r\nX-Original-Proto: https\r\nX-Forwarded-For: 192.0.2.7\r\n"

local endings = {}
local rests, turn, sent, workload, start, begun = {}, 0, 0, "repeat", "GET /orders/", 0

local function json_body(size)
  local start, finish = '{"note": "', '"}'
  return start .. string.rep("x", size - #start - #finish) .. finish
end

function init(arguments)
  workload = arguments[2]
  local fields, body, number = "", "", 0
  if workload == "post" or workload == "post-100k" then
    start = "POST /bodies/"
    body = json_body(workload == "post" and 1024 or 102400)
    fields = "Content-Type: application/json\r\nContent-Length: " .. #body .. "\r\n"
  elseif workload == "browser" then
    fields = BROWSER
  end
  begun = os.time()
  for token in io.lines(arguments[1]) do
    number = number + 1
    local own = fields
    if workload == "browser" then
      own = own .. string.format("Cookie: theme=dark; session=%08x; _ga=GA1.1.%d.%d\r\n", number, number, begun)
    end
    rests[number] = " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port .. "\r\n" .. own
      .. "Authorization: Bearer " .. token .. "\r\n"
    if workload == "repeat" then
      rests[number] = "GET /" .. rests[number] .. "\r\n"
    elseif workload == "ask" then
      rests[number] = QUESTION .. "X-Original-URI: /orders/1\r\n" .. rests[number]:match("Authorization.*") .. "\r\n"
    elseif workload == "ask-unique" then
      endings[number] = "\r\n" .. rests[number]:match("Authorization.*") .. "\r\n"
    elseif workload == "forged" then
      -- Eight characters of the signature are another request's each time.
      local _, dot = rests[number]:find("Bearer [^.]+%.[^.]+%.")
      endings[number] = rests[number]:sub(dot + 19) .. "\r\n"
      rests[number] = rests[number]:sub(1, dot + 10)
    elseif workload ~= "browser" then
      rests[number] = rests[number] .. "\r\n" .. body
    end
  end
end

function request()
  turn = turn % #rests + 1
  if workload == "repeat" or workload == "ask" then
    return rests[turn]
  end
  sent = sent + 1
  local line = start .. begun .. "-" .. sent .. "?page=" .. sent
  if workload == "ask-unique" then
    local id = string.format("%016x%016x", begun, sent)
    return QUESTION .. "X-Request-Id: " .. id .. "\r\nX-Original-URI: /orders/" .. sent .. endings[turn]
  end
  if workload == "browser" then
    return string.format("%s%straceparent: 00-%016x%016x-%016x-01\r\n\r\n", line, rests[turn], begun, sent, sent)
  end
  if workload == "forged" then
    return string.format("%s%s%08x%s", line, rests[turn], sent, endings[turn])
  end
  return line .. rests[turn]
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "failures": '
      .. '{"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed.connect, failed.read, failed.write, failed.timeout, failed.status))
end

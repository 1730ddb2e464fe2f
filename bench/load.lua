-- Sends the tokens of a file in turn, and ends with one line of JSON: requests, seconds,
-- latencies in milliseconds, and how many requests failed in which way. With a second argument each
-- request has a query that none had before, so that no head comes again.

local requests, turn, sent, start = {}, 0, 0, nil

function init(arguments)
  for token in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", nil, {["Authorization"] = "Bearer " .. token})
  end
  if arguments[2] then
    start = "GET /?" .. os.time() .. "-"
    for number, request in ipairs(requests) do
      requests[number] = request:sub(#"GET /" + 1)
    end
  end
end

function request()
  turn = turn % #requests + 1
  if start then
    sent = sent + 1
    return start .. sent .. requests[turn]
  end
  return requests[turn]
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "failures": '
      .. '{"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed.connect, failed.read, failed.write, failed.timeout, failed.status))
end

-- Posts one job after the other on each connection, and counts what each answer was.
-- Arguments after the URL: path, "wait" or "submit", API key or "-".
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  ended, accepted, refused = 0, 0, 0
  local headers = { ["Content-Type"] = "application/json" }
  if args[2] == "wait" then headers["Prefer"] = "wait=30" end
  if args[3] ~= "-" then headers["Authorization"] = "Bearer " .. args[3] end
  request_text = wrk.format("POST", args[1], headers, '{"input": {"text": "hello"}}')
end

function request()
  return request_text
end

function response(status, headers, body)
  if status == 200 and body:find('"output": ?{"text": ?"hello"}') then
    ended = ended + 1
  elseif status == 202 then
    accepted = accepted + 1
  else
    refused = refused + 1
  end
end

function done(summary, latency, requests)
  local counts = { ended = 0, accepted = 0, refused = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(counts) do counts[name] = counts[name] + thread:get(name) end
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"seconds": %f, "ended": %d, "accepted": %d, "refused": %d, "broken": %d, ' ..
    '"p50_ms": %f, "p90_ms": %f, "p99_ms": %f}\n',
    summary.duration / 1e6, counts.ended, counts.accepted, counts.refused,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(90) / 1000, latency:percentile(99) / 1000))
end

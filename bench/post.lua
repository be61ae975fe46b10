-- For wrk: posts the bodies of a file, one after the other, and tells the outcome in one line of JSON.
-- BODIES=FILE [BUDGET_MS=...] wrk ... -s post.lua URL
-- One body alone is sent from C: calling Lua for each request would hold wrk below what nginx answers.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-Budget-Ms"] = os.getenv("BUDGET_MS")

local bodies, requests, position = {}, {}, 0
for body in io.lines(os.getenv("BODIES")) do
  bodies[#bodies + 1] = body
end

if #bodies == 1 then
  wrk.body = bodies[1]
else
  function init()
    for index, body in ipairs(bodies) do
      requests[index] = wrk.format(nil, nil, nil, body)
    end
  end

  function request()
    position = position % #requests + 1
    return requests[position]
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "duration_us": %d, "not_2xx": %d, "socket_errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end

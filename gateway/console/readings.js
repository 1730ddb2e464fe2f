// The answer of /v1/overview as the numbers for the charts.

/** Counters by key, the latency's buckets, gauges, and every dependency with its state. */
export function readings({ readiness, metrics }) {
  return {
    readiness: readiness.status,
    dependencies: [
      ...Object.entries(readiness.dependencies).map(([name, { status, detail }]) => ({ name, status, detail })),
      ...Object.entries(metrics.streams).map(([name, up]) => ({
        name: `change stream of ${name}`,
        status: up ? "up" : "down",
        detail: up ? null : "Memory is not trusted while this stream is down: each request asks a store.",
      })),
    ],
    requests: metrics.requests,
    denials: metrics.denials,
    lookups: metrics.lookups,
    latency: metrics.latency,
    limited: metrics.limited,
    overlooked: metrics.overlooked,
    inFlight: metrics.in_flight,
    workers: metrics.workers,
    caches: metrics.caches,
  };
}

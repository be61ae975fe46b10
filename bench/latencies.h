/* A histogram of latencies in nanoseconds: 128 buckets for each power of two, so that none is 1% wide. */

#ifndef LATENCIES_H
#define LATENCIES_H

#include <stdint.h>

enum { LATENCY_BITS = 7, LATENCY_STEPS = 1 << LATENCY_BITS, LATENCY_BUCKETS = 64 * LATENCY_STEPS };

struct latencies {
    uint64_t counts[LATENCY_BUCKETS], count;
};

static inline void record_latency(struct latencies *latencies, uint64_t ns)
{
    int shift = ns < LATENCY_STEPS ? 0 : 63 - __builtin_clzll(ns) - LATENCY_BITS;
    latencies->counts[(uint64_t)shift * LATENCY_STEPS + (ns >> shift)]++;
    latencies->count++;
}

/* Returns the middle of the bucket that a share of all latencies, such as 0.99, does not exceed, in microseconds. */
static inline double percentile_us(const struct latencies *latencies, double share)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)latencies->count * share);
    for (int bucket = 0; bucket < LATENCY_BUCKETS; bucket++) {
        seen += latencies->counts[bucket];
        if (seen > wanted) {
            int shift = bucket < LATENCY_STEPS ? 0 : bucket / LATENCY_STEPS - 1;
            uint64_t low = (uint64_t)(bucket - shift * LATENCY_STEPS) << shift;
            return ((double)low + (double)(UINT64_C(1) << shift) / 2) / 1e3;
        }
    }
    return 0;
}

#endif

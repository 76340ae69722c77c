package main

import "math/bits"

// histogram counts durations in nanoseconds with an error below 1 %:
// 128 linear steps in each power of two.
type histogram struct {
	counts [58 * 128]uint64
	total  uint64
	max    int64
}

func bucketOf(ns int64) int {
	if ns < 128 {
		return int(max(ns, 0))
	}
	shift := bits.Len64(uint64(ns)) - 8
	return (shift+1)*128 + int(ns>>shift) - 128
}

func bucketTop(i int) int64 {
	if i < 128 {
		return int64(i)
	}
	shift := i/128 - 1
	return (int64(i%128+128)+1)<<shift - 1
}

func (h *histogram) add(ns int64) {
	h.counts[bucketOf(ns)]++
	h.total++
	h.max = max(h.max, ns)
}

func (h *histogram) reset() { *h = histogram{} }

// quantile returns the upper edge, in nanoseconds, of the bucket that holds q.
func (h *histogram) quantile(q float64) int64 {
	if h.total == 0 {
		return 0
	}
	rank := uint64(q * float64(h.total-1))
	var seen uint64
	for i, n := range h.counts {
		seen += n
		if seen > rank {
			return min(bucketTop(i), h.max)
		}
	}
	return h.max
}

// latency is the part of a histogram that is reported.
type latency struct {
	P50ms float64 `json:"p50_ms"`
	P99ms float64 `json:"p99_ms"`
	MaxMs float64 `json:"max_ms"`
	Count uint64  `json:"count"`
}

func (h *histogram) summary() latency {
	ms := func(ns int64) float64 { return float64(ns) / 1e6 }
	return latency{ms(h.quantile(0.5)), ms(h.quantile(0.99)), ms(h.max), h.total}
}

// Sizes that decide how fast the CPU operators are, never what they compute. Constants only: the
// kernels, which are compiled once per level of CPU features, include this file.
#pragma once

#include <cstdint>

namespace rl4rec {

// What the L2 cache of one core holds. It is 512 KiB to 2 MiB on the CPUs of these years; a table
// that is smaller than this is not prefetched.
constexpr int64_t kL2CacheBytes = 1 << 20;

// How many eighths of it panels of queries may take that are scored against one tile of items,
// before the next tile is loaded. They leave room for the items and for what else the core runs.
// (This is asked of the system, which may have a larger cache.)
constexpr int64_t kPanelEighths = 3;
// At least this many, even if they pass through the L2 cache: with fewer, loading the items takes
// longer than scoring them.
constexpr int64_t kMinPanels = 8;
// Panels of a block that is refined. Their counts and undecided pairs take some MiB per thread.
constexpr int64_t kRefinedPanels = 256;

// Rows of items that are scored in one way, and whose undecided pairs are rescored together.
constexpr int64_t kStripRows = 256;
// The same of a way that is tried, and of exact scores, which take time to begin with, if they cost
// less than others did.
constexpr int64_t kTriedRows = 64;
constexpr int64_t kExactRows = 16 * kStripRows;
// Rows that are prefetched ahead of the one that is rounded, and of the one that is rescored.
constexpr int64_t kRoundedAhead = 6;
constexpr int64_t kRescoredAhead = 6;
// The same for topk_catalog: what a strip of items takes of the L2 cache, but each query should
// have about this many undecided items in it.
constexpr int64_t kStripBytes = kL2CacheBytes / 4;
constexpr int64_t kStripItemsPerQuery = 64;
// What the candidates for the best k of a block's queries may take, per thread.
constexpr int64_t kReservoirBytes = 16 << 20;

// Candidates that are scored together: their row pointers and scores stay in the L1 cache.
constexpr int64_t kChunkSize = 512;
// Row pointers that dot_rows reads past the last row, to prefetch those rows.
constexpr int64_t kPrefetchRows = 12;
// The same for dot_int8_rows.
constexpr int64_t kPrefetchInt8Rows = 24;

// Bytes that are prefetched ahead of rows that are read one after the other: the processor's own
// prefetching ends with each page.
constexpr int64_t kStreamAhead = 2048;

// The least work per thread, in multiplications and in metrics. Starting one takes microseconds,
// and milliseconds where other programs keep all processors busy: a call of one query starts none.
constexpr int64_t kMultiplicationsPerThread = 1 << 18;
constexpr int64_t kMetricsPerThread = 512;
// The same in queries whose norms are computed.
constexpr int64_t kQueriesPerThread = 64;

}  // namespace rl4rec

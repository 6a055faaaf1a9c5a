// Attention of few rows: one tile of 16 holds all query heads that share a kv head (rows * GROUP <= 16), so K and V are read once for them.
//
// Work is spread in pieces: some units of BN keys, one behind another, of one work item and kv head. `planDecode` writes them down once a step, for all
// layers that share the work list, so that a block finds all it must know in one place. Every warp takes 16 keys of each unit; warps join in order at a
// piece's end, pieces of a pair when the last of them has ended.
//
//   even (the default)   all units of all pairs stand in one line, of which each thread block takes an equal stretch: a piece is what of the stretch is one
//                        pair's. At most two pieces of a block are parts of pairs, so memory for partial results does not grow with the batch.
//   DETERMINISTIC        a piece's length depends on its item's own keys alone: SEGMENT_UNITS units, doubled until there are at most MAX_SEGMENTS; block c
//                        takes pieces c, c + grid, ... So a row's bits depend on the row alone, and neither on the batch nor on the machine.
//
//   plan   word 0: entries   1: units, or pieces, in all   2: blocks that have work   from word 8, for each item of few rows and one behind the last:
//          even (item, units before, units of a pair, -)          DETERMINISTIC (item, pieces before, units of a segment, rows of partial results before)
//          from word p.pieces: PIECE_WORDS words for each piece; block c begins with piece c, and a piece names the one behind it

constexpr int DECODE_THREADS = 2 * BN;
constexpr int DECODE_WARPS = BN / 16;
constexpr int STAGE_BYTES = BN * (STRIDE_QK + STRIDE_V);
constexpr int PARTIAL_WORDS = PADDED_V + 2; // of a row: its sums, m, l
constexpr int OUT_TILES = PADDED_V / 8;
constexpr int PIECE_WORDS = 16;

__device__ __forceinline__ int unitsOf(const Params& p, const int* item) {
  const int* run = p.work + p.work[1] + 2 * item[4];
  const int last = (item[6] + BN - 1) / BN;
  int units = 0;
  for (int r = 0; r < item[5]; r++, run += 2) units += max(0, min((run[0] + (run[1] >> 1)) * (KV_TILE / BN), last) - run[0] * (KV_TILE / BN));
  return units;
}
__device__ __forceinline__ int unitsPerSegment(int units) {
  int segment = SEGMENT_UNITS;
  while (segment * MAX_SEGMENTS < units) segment *= 2;
  return segment;
}

/// The entry whose pieces, or units, `n` is among.
__device__ __forceinline__ int findEntry(const Params& p, int entries, int n) {
  int low = 0, high = entries;
  while (high - low > 1) {
    const int middle = (low + high) >> 1;
    if (p.plan[8 + 4 * middle + 1] <= n) low = middle;
    else high = middle;
  }
  return low;
}

/// Piece `n`: `units` of an item's blocks from the one behind `skip` others on.
__device__ __forceinline__ void writePiece(const Params& p, int n, int index, int kvHead, int skip, int units, int segment, int segments, int counter, int partialRow, int next) {
  const int* const item = p.work + 8 + 8 * index;
  Blocks blocks(p.work + p.work[1], item);
  while (blocks.more() && skip > 0) {
    const int step = min(skip, blocks.end - blocks.block);
    skip -= step;
    blocks.block += step;
    if (blocks.block >= blocks.end) blocks.open();
  }
  int4* const words = (int4*)(p.plan + p.pieces + PIECE_WORDS * n);
  words[0] = make_int4(item[0], item[1], item[2], item[3]);
  words[1] = make_int4(item[6], kvHead, segment, segments);
  words[2] = make_int4(counter, partialRow, blocks.more() ? units : 0, next);
  words[3] = make_int4(blocks.block, blocks.end, 2 * blocks.left + (blocks.partial ? 1 : 0), (int)(blocks.run - p.work));
}

extern "C" __global__ void __launch_bounds__(1024, 1) planDecode(const __grid_constant__ Params p) {
  __shared__ int warpTotals[3][32];
  __shared__ int overflow; // even: pieces that are not a block's first
  waitForEarlierKernels();
  letNextKernelStart();
  const int numItems = p.work[0], lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int before[3] = {0, 0, 0}; // entries, pieces, rows
  for (int first = 0; first < numItems; first += 1024) {
    const int index = first + threadIdx.x;
    const int* const item = p.work + 8 + 8 * index;
    int mine[3] = {0, 0, 0}, segmentUnits = 0;
    if (index < numItems && item[2] <= p.decodeRows) {
      const int units = max(1, unitsOf(p, item)); // who sees nothing has a unit all the same, of no keys
      mine[0] = 1;
#if DETERMINISTIC
      segmentUnits = unitsPerSegment(units);
      const int segments = (units + segmentUnits - 1) / segmentUnits;
      mine[1] = NUM_KV_HEADS * segments;
      mine[2] = segments > 1 ? NUM_KV_HEADS * segments * item[2] * GROUP : 0;
#else
      segmentUnits = units;
      mine[1] = NUM_KV_HEADS * units;
#endif
    }
    int sum[3];
#pragma unroll
    for (int k = 0; k < 3; k++) {
      sum[k] = mine[k];
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0u, sum[k], step);
        if (lane >= step) sum[k] += other;
      }
      if (lane == 31) warpTotals[k][warp] = sum[k];
    }
    __syncthreads();
    int total[3] = {0, 0, 0};
#pragma unroll
    for (int k = 0; k < 3; k++)
      for (int w = 0; w < 32; w++) {
        if (w < warp) sum[k] += warpTotals[k][w];
        total[k] += warpTotals[k][w];
      }
    if (mine[0]) {
      int* const entry = p.plan + 8 + 4 * (before[0] + sum[0] - 1);
      entry[0] = index;
      entry[1] = before[1] + sum[1] - mine[1];
      entry[2] = segmentUnits;
      entry[3] = before[2] + sum[2] - mine[2];
    }
    for (int k = 0; k < 3; k++) before[k] += total[k];
    __syncthreads();
  }
  const int entries = before[0], total = before[1];
#if DETERMINISTIC
  const int blocks = min(p.decodeBlocks, total);
#else
  // Many units: all blocks. Few: as many blocks for each pair, none with fewer than LEAST_UNITS units of pairs that are alike, as joining costs what
  // reading some of them does; at least one, so that what is short needs no joining at all.
  const int pairs = entries * NUM_KV_HEADS, most = min(p.decodeBlocks, total >= 4 * p.decodeBlocks ? p.decodeBlocks : min(p.numSms, total / LEAST_UNITS));
  const int blocks = total >= 4 * p.decodeBlocks || pairs >= most ? min(p.decodeBlocks, max(pairs, most)) : pairs * (most / pairs);
#endif
  if (threadIdx.x == 0) {
    p.plan[0] = entries;
    p.plan[1] = total;
    p.plan[2] = blocks;
    p.plan[8 + 4 * entries + 1] = total;
    overflow = p.decodeBlocks;
  }
  __syncthreads();
#if DETERMINISTIC
  for (int n = threadIdx.x; n < total; n += 1024) {
    const int entry = findEntry(p, entries, n);
    const int4 words = *((const int4*)(p.plan + 8) + entry);
    const int segments = (p.plan[8 + 4 * entry + 5] - words.y) / NUM_KV_HEADS, kvHead = (n - words.y) / segments, segment = (n - words.y) % segments;
    const int rows = p.work[8 + 8 * words.x + 2] * GROUP;
    writePiece(p, n, words.x, kvHead, segment * words.z, words.z, segment, segments, entry * NUM_KV_HEADS + kvHead, words.w + kvHead * segments * rows, n + blocks < total ? n + blocks : -1);
  }
#else
  for (int c = threadIdx.x; c < blocks; c += 1024) {
    const int end = (int)((i64)(c + 1) * total / blocks);
    for (int unit = (int)((i64)c * total / blocks), piece = c; unit < end;) {
      const int4 words = *((const int4*)(p.plan + 8) + findEntry(p, entries, unit));
      const int kvHead = (unit - words.y) / words.z, at = unit - words.y - kvHead * words.z, begin = unit - at, units = min(words.z - at, end - unit);
      // Block c holds unit u where c total / blocks <= u: the blocks that share the pair follow from where it begins and ends.
      const int firstBlock = (int)(((i64)(begin + 1) * blocks - 1) / total), lastBlock = (int)(((i64)(begin + words.z) * blocks - 1) / total);
      unit += units;
      const int next = unit < end ? atomicAdd(&overflow, 1) : -1;
      writePiece(p, piece, words.x, kvHead, at, units, c - firstBlock, lastBlock - firstBlock + 1, firstBlock, 0, next);
      piece = next;
    }
  }
#endif
}

/// One piece: which rows, and which of the keys. left: units to come, 0 where it has no keys (any more), -1 where there is no piece.
struct Piece {
  int behind, kvHead, segment, segments, partialRow, counter; // behind: the piece that follows in the same block
  int sequence, firstRow, numRows, firstPosition, kvLength, left;
  Blocks blocks;

  __device__ __forceinline__ void open(const Params& p, int n) {
    left = -1;
    if (n < 0) return;
    const int4* const words = (const int4*)(p.plan + p.pieces + PIECE_WORDS * n);
    const int4 a = __ldcg(words), b = __ldcg(words + 1), c = __ldcg(words + 2), d = __ldcg(words + 3);
    sequence = a.x; firstRow = a.y; numRows = a.z; firstPosition = a.w;
    kvLength = b.x; kvHead = b.y; segment = b.z; segments = b.w;
    counter = c.x; partialRow = c.y; left = c.z; behind = c.w;
    blocks.last = (kvLength + BN - 1) / BN;
    blocks.block = d.x; blocks.end = d.y; blocks.left = d.z >> 1; blocks.partial = d.z & 1; blocks.run = p.work + d.w;
    blocks.number = blocks.nextNumber = 0; // masks are evaluated here, whatever is packed
  }
  __device__ __forceinline__ void following(const Params& p) { open(p, behind); }
#if DETERMINISTIC
  /// Where the partial results of the pair's segment g begin, in rows.
  __device__ __forceinline__ int partialRowOf(int g) const { return partialRow + g * numRows * GROUP; }
#else
  /// A block has room for two pieces: one that goes on from the block before, and one that begins a pair.
  __device__ __forceinline__ int partialRowOf(int g) const { return 16 * (2 * (counter + g) + (g == 0 ? 1 : 0)); }
#endif
  __device__ __forceinline__ bool more() const { return left > 0; }
  __device__ __forceinline__ void next() {
    left--;
    blocks.next();
    if (!blocks.more()) left = 0;
  }
};

/// Row r of the tile: query row r / GROUP, head r % GROUP of the group.
__device__ __forceinline__ const u16* queryRow(const Params& p, const Piece& piece, int r) {
  return p.query + piece.sequence * p.querySequenceStride + (i64)(piece.firstRow + r / GROUP) * p.queryRowStride + (piece.kvHead * GROUP + r % GROUP) * p.queryHeadStride;
}

/// Two neighbouring elements of a query row as a word, zeros beyond the row.
__device__ __forceinline__ u32 queryPair(const u16* row, int d, bool aligned) {
  if (d >= HEAD_DIM_QK) return 0;
  if (aligned) return *(const u32*)(row + d);
  return row[d] | (d + 1 < HEAD_DIM_QK ? (u32)row[d + 1] << 16 : 0u);
}

extern "C" __global__ void __launch_bounds__(DECODE_THREADS, 1) decode(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) u8 shared[];
  // Behind the stages: sums of 16 rows; m and l of each warp's rows, later of rows; whether this block ended the last piece of a pair.
  float* const sums = (float*)(shared + DECODE_STAGES * STAGE_BYTES);
  float* const tops = sums + 16 * PADDED_V;
  float* const totals = tops + 16 * DECODE_WARPS;
  int* const isLast = (int*)(totals + 16 * DECODE_WARPS);
#if QUERIES_IN_SHARED
  u8* const queries = (u8*)(isLast + 4); // the tile of queries, where registers are too few for it
#endif
  // Where `early` says so, all that this kernel reads is there already but the step's own queries, keys and values: it may begin before those are.
  bool waited = !p.early;
  if (waited) waitForEarlierKernels();

  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, group = lane >> 2, quarter = lane & 3;
  Failure failure((int4*)p.failure);
  Piece loading;
  loading.open(p, (int)blockIdx.x < __ldcg(p.plan + 2) ? (int)blockIdx.x : -1);
  if (loading.left < 0) {
    if (!waited) waitForEarlierKernels();
    letNextKernelStart();
    return;
  }
  Piece piece = loading;
  int stage = 0;
  KeySource keys = keySource(p, loading.sequence, loading.kvHead, loading.kvLength), values = valueSource(p, loading.sequence, loading.kvHead, loading.kvLength);
  /// The next unit of keys and values into stage `to`; an empty group where there is none.
  auto loadNext = [&](int to) {
    while (loading.left == 0) {
      loading.following(p);
      if (loading.left > 0) {
        keys = keySource(p, loading.sequence, loading.kvHead, loading.kvLength);
        values = valueSource(p, loading.sequence, loading.kvHead, loading.kvLength);
      }
    }
    if (loading.left > 0) {
      u8* const at = shared + to * STAGE_BYTES;
      loadRows<KEY_FORMAT, HEAD_DIM_QK, PADDED_QK, STRIDE_QK, DECODE_THREADS, true>(at, keys, loading.blocks.block * BN);
      loadRows<VALUE_FORMAT, HEAD_DIM_V, PADDED_V, STRIDE_V, DECODE_THREADS, true>(at + BN * STRIDE_QK, values, loading.blocks.block * BN);
      loading.next();
    }
    copyCommit();
  };
#pragma unroll 1
  for (int s = 0; s < DECODE_STAGES - 1; s++) {
    if (!waited && (loading.left == 0 || (loading.blocks.block + 1) * BN > loading.firstPosition)) {
      waitForEarlierKernels();
      waited = true;
    }
    loadNext(s);
  }
  if (!waited) waitForEarlierKernels();
  letNextKernelStart(); // not before the wait: what stands before this kernel's predecessor is done when its successor begins

  for (; piece.left >= 0; piece.following(p)) {
    const int rows = piece.numRows * GROUP;
#if QUERIES_IN_SHARED
    for (int i = threadIdx.x; i < 16 * (PADDED_QK / 2); i += DECODE_THREADS) {
      const int r = i / (PADDED_QK / 2), d = i % (PADDED_QK / 2) * 2;
      *(u32*)(queries + r * STRIDE_QK + 2 * d) = r < rows ? queryPair(queryRow(p, piece, r), d, p.aligned & 1) : 0;
    }
#else
    u32 q[PADDED_QK / 16][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int r = group + 8 * half;
      const u16* const row = queryRow(p, piece, r);
#pragma unroll
      for (int k = 0; k < PADDED_QK / 16; k++) {
        q[k][half] = r < rows ? queryPair(row, 16 * k + 2 * quarter, p.aligned & 1) : 0;
        q[k][half + 2] = r < rows ? queryPair(row, 16 * k + 8 + 2 * quarter, p.aligned & 1) : 0;
      }
    }
#endif
    float m[2] = {-infinity(), -infinity()}, l[2] = {0.f, 0.f}, out[OUT_TILES][4];
#pragma unroll
    for (int d = 0; d < OUT_TILES; d++) out[d][0] = out[d][1] = out[d][2] = out[d][3] = 0.f;

    while (piece.more()) {
      const int kv0 = piece.blocks.block * BN + 16 * warp;
      const bool partial = piece.blocks.partial;
      copyWait<DECODE_STAGES - 2>();
      __syncthreads(); // this stage is there, and nobody reads the one before it any more
      loadNext((stage + DECODE_STAGES - 1) % DECODE_STAGES);
      const u32 sharedK = sharedAddress(shared + stage * STAGE_BYTES) + 16 * warp * STRIDE_QK, sharedV = sharedAddress(shared + stage * STAGE_BYTES + BN * STRIDE_QK) + 16 * warp * STRIDE_V;

      float s[2][4] = {};
      const u32 kAt = sharedK + ((lane & 7) + ((lane & 16) >> 1)) * STRIDE_QK + 16 * ((lane >> 3) & 1);
#pragma unroll
      for (int k = 0; k < PADDED_QK / 16; k++) {
        u32 b[4];
        loadMatrices(b, kAt + 32 * k);
#if QUERIES_IN_SHARED
        u32 a[4];
        loadMatrices(a, sharedAddress(queries) + (lane & 15) * STRIDE_QK + 16 * (lane >> 4) + 32 * k);
        multiplyAdd(s[0], a, b[0], b[1]);
        multiplyAdd(s[1], a, b[2], b[3]);
#else
        multiplyAdd(s[0], q[k], b[0], b[1]);
        multiplyAdd(s[1], q[k], b[2], b[3]);
#endif
      }
      const bool checked = partial || kv0 + 16 > piece.kvLength;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int r = group + 8 * half, head = piece.kvHead * GROUP + r % GROUP, position = piece.firstPosition + r / GROUP;
        const bool rowLive = r < rows;
        float top = m[half];
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& x = s[j][2 * half + e];
            const int kv = kv0 + 8 * j + 2 * quarter + e;
            bool allowed = true;
            if (checked) {
              allowed = kv < piece.kvLength;
#if HAS_MASK
              if (partial) allowed = allowed & maskMod<true>(p, failure, rowLive & allowed, 0.f, piece.sequence, head, position, kv);
#endif
            }
#if !FOLD_SCALE
            x = scoreMod<true>(p, failure, rowLive & allowed, x * SCALE, piece.sequence, head, position, kv);
#endif
#if HAS_WEIGHT
            x = weightMod<true>(p, failure, rowLive & allowed, x, piece.sequence, head, position, kv);
            x = allowed ? x : 0.f;
#else
            x = allowed ? x : -infinity();
            top = fmaxf(top, x);
#endif
          }
#if !HAS_WEIGHT
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        const float origin = top == -infinity() ? 0.f : top * EXPONENT_SCALE, keep = exp2Approx(fmaf(m[half], EXPONENT_SCALE, -origin));
        float sum = 0.f;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& x = s[j][2 * half + e];
            x = exp2Approx(fmaf(x, EXPONENT_SCALE, -origin));
            sum += x;
          }
        l[half] = fmaf(l[half], keep, sum);
        if (__any_sync(~0u, top != m[half])) {
#pragma unroll
          for (int d = 0; d < OUT_TILES; d++) {
            out[d][2 * half] *= keep;
            out[d][2 * half + 1] *= keep;
          }
        }
        m[half] = top;
#endif
      }
      const u32 weights[4] = {pack2(s[0][0], s[0][1]), pack2(s[0][2], s[0][3]), pack2(s[1][0], s[1][1]), pack2(s[1][2], s[1][3])};
      const u32 vAt = sharedV + (lane & 15) * STRIDE_V + 16 * (lane >> 4);
#pragma unroll
      for (int d = 0; d < OUT_TILES; d += 2) {
        u32 b[4];
        loadMatricesTransposed(b, vAt + 16 * d);
        multiplyAdd(out[d], weights, b[0], b[1]);
        multiplyAdd(out[d + 1], weights, b[2], b[3]);
      }
      stage = (stage + 1) % DECODE_STAGES;
      piece.next();
    }

    // ---- the warps of this block join, in order ----
#pragma unroll
    for (int half = 0; half < 2; half++) {
      l[half] += __shfl_xor_sync(~0u, l[half], 1);
      l[half] += __shfl_xor_sync(~0u, l[half], 2);
      if (quarter == 0) { tops[16 * warp + group + 8 * half] = m[half]; totals[16 * warp + group + 8 * half] = l[half]; }
    }
    __syncthreads();
    float top[2], factor[2], total[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      top[half] = -infinity();
      for (int w = 0; w < DECODE_WARPS; w++) top[half] = fmaxf(top[half], tops[16 * w + group + 8 * half]);
      const float origin = top[half] == -infinity() ? 0.f : top[half] * EXPONENT_SCALE;
      total[half] = 0.f;
      for (int w = 0; w < DECODE_WARPS; w++) total[half] += totals[16 * w + group + 8 * half] * exp2Approx(fmaf(tops[16 * w + group + 8 * half], EXPONENT_SCALE, -origin));
      factor[half] = HAS_WEIGHT ? 1.f : exp2Approx(fmaf(m[half], EXPONENT_SCALE, -origin));
    }
    // In round r warp w adds the columns of part (w + r) % DECODE_WARPS: each part in an order of its own, but always the same.
#pragma unroll 1
    for (int round = 0; round < DECODE_WARPS; round++) {
      const int part = (warp + round) % DECODE_WARPS;
#pragma unroll
      for (int d = 0; d < OUT_TILES; d++) {
        if (d % DECODE_WARPS != part) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float2* const to = (float2*)(sums + (group + 8 * half) * PADDED_V + 8 * d + 2 * quarter);
          const float2 had = round ? *to : make_float2(0.f, 0.f);
          *to = make_float2(fmaf(out[d][2 * half], factor[half], had.x), fmaf(out[d][2 * half + 1], factor[half], had.y));
        }
      }
      __syncthreads();
    }
    if (warp == 0 && quarter == 0) {
      for (int half = 0; half < 2; half++) { tops[group + 8 * half] = top[half]; totals[group + 8 * half] = total[half]; }
    }
    __syncthreads();

    // ---- the segments of the row join, in order, in whichever block ends last ----
    const int segments = piece.segments;
    if (segments > 1) {
      float* const mine = p.partial + (i64)piece.partialRowOf(piece.segment) * PARTIAL_WORDS;
      for (int i = threadIdx.x; i < rows * (PADDED_V / 2); i += DECODE_THREADS) {
        const int r = i / (PADDED_V / 2), d = i % (PADDED_V / 2) * 2;
        __stcg((float2*)(mine + r * PARTIAL_WORDS + d), *(const float2*)(sums + r * PADDED_V + d));
      }
      if (threadIdx.x < rows) __stcg((float2*)(mine + threadIdx.x * PARTIAL_WORDS + PADDED_V), make_float2(tops[threadIdx.x], totals[threadIdx.x]));
      __syncthreads();
      if (threadIdx.x == 0) {
        __threadfence(); // of the whole block's stores, which the barrier has put before it
        *isLast = atomicAdd(p.counters + piece.counter, 1) == segments - 1;
        if (*isLast) p.counters[piece.counter] = 0;
      }
      __syncthreads();
      if (!*isLast) continue;
      __threadfence();
      // Each thread with four elements of a row: all pieces in one pass, under the highest score so far.
      for (int i = threadIdx.x; i < rows * (PADDED_V / 4); i += DECODE_THREADS) {
        const int r = i / (PADDED_V / 4), d = i % (PADDED_V / 4) * 4;
        float highest = -infinity(), total = 0.f;
        float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
        for (int g = 0; g < segments; g++) {
          const float* const from = p.partial + (i64)(piece.partialRowOf(g) + r) * PARTIAL_WORDS;
          const float2 state = __ldcg((const float2*)(from + PADDED_V)), x = __ldcg((const float2*)(from + d)), y = __ldcg((const float2*)(from + d + 2));
          const float above = fmaxf(highest, state.x), origin = above == -infinity() ? 0.f : above * EXPONENT_SCALE;
          const float keep = HAS_WEIGHT ? 1.f : exp2Approx(fmaf(highest, EXPONENT_SCALE, -origin)), f = HAS_WEIGHT ? 1.f : exp2Approx(fmaf(state.x, EXPONENT_SCALE, -origin));
          highest = above;
          total = fmaf(state.y, f, total * keep);
          sum.x = fmaf(x.x, f, sum.x * keep); sum.y = fmaf(x.y, f, sum.y * keep); sum.z = fmaf(y.x, f, sum.z * keep); sum.w = fmaf(y.y, f, sum.w * keep);
        }
        *(float4*)(sums + r * PADDED_V + d) = sum;
        if (d == 0) { tops[r] = highest; totals[r] = total; }
      }
      __syncthreads();
    }

    // ---- and what is whole is written ----
    for (int i = threadIdx.x; i < 64; i += DECODE_THREADS) {
      const int r = i >> 2;
      if (r >= rows) continue;
      const int head = piece.kvHead * GROUP + r % GROUP;
      float rowTop = tops[r], rowTotal = totals[r], scale = 1.f;
      if (DENOMINATOR) {
        const float start = startMax(p, head), highest = fmaxf(rowTop, start), origin = highest == -infinity() ? 0.f : highest * EXPONENT_SCALE;
        scale = exp2Approx(fmaf(rowTop, EXPONENT_SCALE, -origin));
        rowTotal = rowTotal * scale + exp2Approx(fmaf(start, EXPONENT_SCALE, -origin));
        rowTop = highest;
      }
      float row[OUT_TILES][2];
#pragma unroll
      for (int d = 0; d < OUT_TILES; d++)
        for (int e = 0; e < 2; e++) row[d][e] = sums[r * PADDED_V + 8 * d + 2 * (i & 3) + e] * scale;
      writeRow(p, failure, row, rowTop, rowTotal, piece.sequence, head, piece.firstRow + r / GROUP, piece.firstPosition + r / GROUP, i & 3);
    }
    __syncthreads(); // the sums may be written again
  }
  copyWait<0>();
  failure.finish();
}

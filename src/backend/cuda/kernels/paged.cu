// Between attention kernels and memory: queries, keys and values by their strides and pages, the runs of a work item, and the end of a row.
// Rows of keys and values that no sequence has are zeros in shared memory, so that a weight of zero times them is zero.

/// Keys or values of one sequence and kv head.
struct KeySource {
  const u8* data;
  const float* scale;
  const int* table;
  i64 pageStride, rowStride; // bytes
  i64 scalePageStride, scaleRowStride;
  int kvLength, pageSize, pageMultiplier, pageShift;
  bool aligned, onePage;

  /// Page and token of a key: kv / pageSize by multiplication.
  __device__ __forceinline__ void find(int kv, i64& at, i64& scaleAt) const {
    const int logical = (int)((__umulhi((u32)kv, (u32)pageMultiplier) + (u32)kv) >> pageShift), token = kv - logical * pageSize;
    const i64 page = __ldg(table + logical);
    at = page * pageStride + token * rowStride;
    scaleAt = page * scalePageStride + token * scaleRowStride;
  }
};

__device__ __forceinline__ KeySource keySource(const Params& p, int sequence, int kvHead, int kvLength) {
  return {(const u8*)p.key + (i64)kvHead * p.keyHeadStride * KEY_BYTES, p.keyScale + (i64)kvHead * p.keyScaleHeadStride, p.blockTable + (i64)sequence * p.maxPagesPerSequence,
          p.keySequenceStride * KEY_BYTES, p.keyRowStride * KEY_BYTES, p.keyScaleSequenceStride, p.keyScaleRowStride,
          kvLength, p.pageSize, p.pageMultiplier, p.pageShift, (p.aligned & 2) != 0, p.pageSize % BN == 0};
}
__device__ __forceinline__ KeySource valueSource(const Params& p, int sequence, int kvHead, int kvLength) {
  return {(const u8*)p.value + (i64)kvHead * p.valueHeadStride * VALUE_BYTES, p.valueScale + (i64)kvHead * p.valueScaleHeadStride, p.blockTable + (i64)sequence * p.maxPagesPerSequence,
          p.valueSequenceStride * VALUE_BYTES, p.valueRowStride * VALUE_BYTES, p.valueScaleSequenceStride, p.valueScaleRowStride,
          kvLength, p.pageSize, p.pageMultiplier, p.pageShift, (p.aligned & 4) != 0, p.pageSize % BN == 0};
}

enum Format { SAME, INT8, FP8 };

/// BN rows from kv0 on into shared memory, widened to elements. 16-bit rows that are aligned are copied asynchronously, the others at once.
/// ONCE: no other block reads them in this step.
template <int FORMAT, int DIM, int PADDED, int STRIDE, int NUM_THREADS, bool ONCE>
__device__ __forceinline__ void loadRows(u8* shared, const KeySource& from, int kv0) {
  constexpr int CHUNK = FORMAT == SAME ? 8 : 16; // elements of 16 bytes
  constexpr int CHUNKS = PADDED / CHUNK;
  if (FORMAT == SAME && from.aligned && from.onePage && NUM_THREADS % CHUNKS == 0) {
    // The usual case: each thread copies one column of 16 bytes, a row every NUM_THREADS / CHUNKS.
    constexpr int STEP = NUM_THREADS / CHUNKS;
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    i64 at, scaleAt;
    from.find(kv0, at, scaleAt);
    const u8* source = from.data + at + row * from.rowStride + 16 * chunk;
    const u32 to = sharedAddress(shared) + row * STRIDE + 16 * chunk;
    const int left = chunk * CHUNK < DIM ? from.kvLength - kv0 - row : 0; // rows that are there, from this one on
#pragma unroll
    for (int r = 0; r < (BN + STEP - 1) / STEP; r++, source += STEP * from.rowStride) {
      if (BN % STEP != 0 && row + r * STEP >= BN) continue;
      if (ONCE) copyAsync16Once(to + r * STEP * STRIDE, r * STEP < left ? source : from.data, r * STEP < left);
      else copyAsync16(to + r * STEP * STRIDE, r * STEP < left ? source : from.data, r * STEP < left);
    }
  } else if (from.aligned) {
#pragma unroll 1
    for (int i = threadIdx.x; i < BN * CHUNKS; i += NUM_THREADS) {
      const int row = i / CHUNKS, chunk = i % CHUNKS;
      const bool valid = kv0 + row < from.kvLength && chunk * CHUNK < DIM;
      i64 at = 0, scaleAt = 0;
      if (valid) from.find(kv0 + row, at, scaleAt);
      const u8* const source = from.data + at + (valid ? 16 * chunk : 0);
      if (FORMAT == SAME) {
        copyAsync16(sharedAddress(shared) + row * STRIDE + 16 * chunk, source, valid);
      } else {
        uint4 word = make_uint4(0, 0, 0, 0);
        float scale = 0.f;
        if (valid) { word = __ldg((const uint4*)source); scale = from.scale ? __ldg(from.scale + scaleAt) : 1.f; }
        const u32 words[4] = {word.x, word.y, word.z, word.w};
        u32 wide[8];
#pragma unroll
        for (int k = 0; k < 8; k++) {
          const u32 two = words[k >> 1] >> (16 * (k & 1));
          const float a = FORMAT == INT8 ? int8ToFloat((u8)two) : fp8ToFloat((u8)two), b = FORMAT == INT8 ? int8ToFloat((u8)(two >> 8)) : fp8ToFloat((u8)(two >> 8));
          wide[k] = pack2(a * scale, b * scale);
        }
        uint4* const to = (uint4*)(shared + row * STRIDE + 32 * chunk);
        to[0] = make_uint4(wide[0], wide[1], wide[2], wide[3]);
        to[1] = make_uint4(wide[4], wide[5], wide[6], wide[7]);
      }
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < BN * PADDED; i += NUM_THREADS) {
      const int row = i / PADDED, d = i % PADDED;
      u16 element = 0;
      if (kv0 + row < from.kvLength && d < DIM) {
        i64 at, scaleAt;
        from.find(kv0 + row, at, scaleAt);
        if (FORMAT == SAME) {
          element = __ldg((const u16*)(from.data + at) + d);
        } else {
          const u8 code = __ldg(from.data + at + d);
          element = pack1((FORMAT == INT8 ? int8ToFloat(code) : fp8ToFloat(code)) * (from.scale ? __ldg(from.scale + scaleAt) : 1.f));
        }
      }
      *(u16*)(shared + row * STRIDE + 2 * d) = element;
    }
  }
}
/// `item`: the words of the work item, in shared memory.
template <int NUM_THREADS> __device__ __forceinline__ void loadKeys(const Params& p, u8* shared, const volatile int* item, int kvHead, int kv0) {
  loadRows<KEY_FORMAT, HEAD_DIM_QK, PADDED_QK, STRIDE_QK, NUM_THREADS, false>(shared, keySource(p, item[0], kvHead, item[6]), kv0);
}
template <int NUM_THREADS> __device__ __forceinline__ void loadValues(const Params& p, u8* shared, const volatile int* item, int kvHead, int kv0) {
  loadRows<VALUE_FORMAT, HEAD_DIM_V, PADDED_V, STRIDE_V, NUM_THREADS, false>(shared, valueSource(p, item[0], kvHead, item[6]), kv0);
}

/// `numRows` query rows of a head into shared memory, zeros behind them up to ROWS.
template <int ROWS, int NUM_THREADS>
__device__ __forceinline__ void loadQueries(const Params& p, u8* shared, int sequence, int head, int firstRow, int numRows) {
  const u16* const from = p.query + sequence * p.querySequenceStride + (i64)firstRow * p.queryRowStride + head * p.queryHeadStride;
  if (p.aligned & 1) {
    constexpr int CHUNKS = PADDED_QK / 8;
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += NUM_THREADS) {
      const int row = i / CHUNKS, chunk = i % CHUNKS;
      const bool valid = row < numRows && 8 * chunk < HEAD_DIM_QK;
      copyAsync16(sharedAddress(shared) + row * STRIDE_QK + 16 * chunk, valid ? from + row * p.queryRowStride + 8 * chunk : from, valid);
    }
  } else {
    for (int i = threadIdx.x; i < ROWS * PADDED_QK; i += NUM_THREADS) {
      const int row = i / PADDED_QK, d = i % PADDED_QK;
      *(u16*)(shared + row * STRIDE_QK + 2 * d) = row < numRows && d < HEAD_DIM_QK ? from[row * p.queryRowStride + d] : (u16)0;
    }
  }
}

/// The blocks of BN keys that the runs of a work item name, ascending. Those of partial runs have numbers: `number + block`.
struct Blocks {
  const int* run;
  int left, block, end, last, number, nextNumber;
  bool partial;
  Blocks() = default;
  __device__ __forceinline__ Blocks(const int* runs, const volatile int* item)
      : run(runs + 2 * item[4]), left(item[5]), block(0), end(0), last((item[6] + BN - 1) / BN), number(0), nextNumber(item[7] * (KV_TILE / BN)), partial(false) { open(); }
  __device__ __forceinline__ bool more() const { return block < end; }
  __device__ __forceinline__ void next() { if (++block >= end) open(); }
  __device__ __forceinline__ void open() {
    while (left > 0) {
      const int first = __ldg(run), count = __ldg(run + 1);
      run += 2;
      left--;
      block = first * (KV_TILE / BN);
      end = min((first + (count >> 1)) * (KV_TILE / BN), last);
      partial = count & 1;
      if (partial) {
        number = nextNumber - block;
        nextNumber += (count >> 1) * (KV_TILE / BN);
      }
      if (block < end) return;
    }
    block = end = 0;
  }
};

/// What a row starts from: a sink is a key without a value that was seen before the first.
__device__ __forceinline__ float startMax(const Params& p, int head) {
#if DENOMINATOR == 1
  return 0.f;
#elif DENOMINATOR == 2
  return __ldg(p.sink + head);
#else
  return -infinity();
#endif
}
__device__ __forceinline__ float startSum() { return DENOMINATOR ? 1.f : 0.f; }

/// The end of a row: out[d][e] is element 8 d + 2 quarter + e, not yet divided; m as the kernel keeps it, l its whole sum. Four lanes share a row.
template <int TILES>
__device__ __forceinline__ void writeRow(const Params& p, Failure& failure, float (&out)[TILES][2], float m, float l, int sequence, int head, int row, int position, int quarter) {
#if HAS_WEIGHT
  const float factor = 1.f;
#else
  const float factor = l > 0.f || l != l ? 1.f / l : 0.f; // a row that sees nothing is 0
  const float top = FOLD_SCALE ? m * SCALE : m;
  const i64 at = (i64)row * NUM_QUERY_HEADS + head;
  if (quarter == 0 && p.lse) p.lse[sequence * p.lseSequenceStride + at] = l > 0.f || l != l ? top + logf(l) : -infinity();
  if (quarter == 0 && p.maxScore) p.maxScore[sequence * p.maxScoreSequenceStride + at] = top;
#endif
  u16* const to = p.out + sequence * p.outSequenceStride + (i64)row * p.outRowStride + head * p.outHeadStride;
#pragma unroll
  for (int d = 0; d < TILES; d++) {
    float x[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      x[e] = out[d][e] * factor;
#if HAS_OUTPUT
      x[e] = outputMod<true>(p, failure, 8 * d + 2 * quarter + e < HEAD_DIM_V, x[e], sequence, head, position, 8 * d + 2 * quarter + e);
#endif
    }
    const int column = 8 * d + 2 * quarter;
    if (p.aligned & 8) {
      if (column < HEAD_DIM_V) *(u32*)(to + column) = pack2(x[0], x[1]);
    } else {
      if (column < HEAD_DIM_V) to[column] = pack1(x[0]);
      if (column + 1 < HEAD_DIM_V) to[column + 1] = pack1(x[1]);
    }
  }
}

// The general attention kernel: ragged, paged, block-sparse, online softmax on tensor cores (mma.sync, sm_80 and up).
//
//   O = softmax(mask(scoreMod(scale * Q K^T))) V          one pass over the keys, no score matrix in memory
//
// A thread block computes BM query rows of one head of one work item; each warp ROW_TILES * 16 of them, whose scores and outputs stay in its
// registers. Keys come in blocks of BN: while one block's scores are multiplied its values are on their way, and while its softmax runs the next keys are.
//
//   scores   s = scoreMod(scale * q . k)       in blocks that are partial or cut short by the length, a key that is not allowed is -infinity
//   softmax  m' = max(m, max s)   p = 2^(c (s - m'))   l = l 2^(c (m - m')) + sum p   O = O 2^(c (m - m')) + p V       c = log2 e
//
// Where the score mod is the bare score the factor `scale` is part of c, and m is in units of q . k. With a weightMod p is its value and softmax falls
// away. Blocks of a row are taken in ascending order whatever the row's tile, so its bits depend on the row alone.
//
// MASK_PACKED: the mask is the same for all heads and worth packing (`packMask`): what it says of partial blocks is read from there, as far as there was room.

constexpr int THREADS = 32 * NUM_WARPS;
constexpr int BM = NUM_WARPS * ROW_TILES * 16;
constexpr int SUB_TILES = (QUERY_TILE + BM - 1) / BM; // thread blocks of one work item and head
constexpr int COLUMNS = BN / 8;                       // tiles of 8 keys
constexpr int OUT_TILES = PADDED_V / 8;
constexpr int MASK_BYTES = MASK_PACKED ? 4 * BM * MASK_WORDS : 0; // of a block's keys, in shared memory

/// How a block's keys are allowed or not: all are; some lie beyond the length or the mask is asked; or by bits in shared memory.
enum Allowed { ALL, ASKED, PACKED };

struct State {
  float m[ROW_TILES][2], l[ROW_TILES][2];
  float out[ROW_TILES][OUT_TILES][4];
};

/// Where this thread's rows and columns stand.
struct Place {
  int sequence, head, numRows, firstRow, firstPosition, kvLength; // firstRow and firstPosition of the thread block's row 0
  int warpRow, lane;
  __device__ __forceinline__ int row(int tile, int half) const { return warpRow + tile * 16 + half * 8 + (lane >> 2); }
  __device__ __forceinline__ int column(int j, int e) const { return 8 * j + 2 * (lane & 3) + e; }
};

/// s = Q K^T of the warp's rows and the block's keys.
__device__ __forceinline__ void multiplyKeys(float (&s)[ROW_TILES][COLUMNS][4], u32 sharedQ, u32 sharedK, const Place& at) {
#pragma unroll
  for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) s[t][j][0] = s[t][j][1] = s[t][j][2] = s[t][j][3] = 0.f;
  const u32 qAt = sharedQ + (at.warpRow + (at.lane & 15)) * STRIDE_QK + 16 * (at.lane >> 4);
  const u32 kAt = sharedK + ((at.lane & 7) + ((at.lane & 16) >> 1)) * STRIDE_QK + 16 * ((at.lane >> 3) & 1);
#pragma unroll
  for (int k = 0; k < PADDED_QK / 16; k++) {
    u32 q[ROW_TILES][4];
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++) loadMatrices(q[t], qAt + t * 16 * STRIDE_QK + 32 * k);
#pragma unroll
    for (int j = 0; j < COLUMNS; j += 2) {
      u32 keys[4];
      loadMatrices(keys, kAt + j * 8 * STRIDE_QK + 32 * k);
#pragma unroll
      for (int t = 0; t < ROW_TILES; t++) {
        multiplyAdd(s[t][j], q[t], keys[0], keys[1]);
        multiplyAdd(s[t][j + 1], q[t], keys[2], keys[3]);
      }
    }
  }
}

/// Scores after mods and mask, then p in their place, the state following.
/// GUARDED: an index of a mod's table may be out of range. Columns come first and rows inside, so that what depends on a key alone is needed for a moment only.
template <Allowed ALLOWED, bool GUARDED>
__device__ __forceinline__ void softmaxStep(const Params& p, Failure& failure, float (&s)[ROW_TILES][COLUMNS][4], State& state, const Place& at, int kv0, bool partial, const u32* mask) {
  constexpr bool CHECKED = ALLOWED != ALL;
  float highest[ROW_TILES][2];
#pragma unroll
  for (int t = 0; t < ROW_TILES; t++) highest[t][0] = state.m[t][0], highest[t][1] = state.m[t][1];
  u32 bits[ROW_TILES][2]; // of 32 keys, from this thread's first on
#pragma unroll
  for (int j = 0; j < COLUMNS; j++) {
#if MASK_PACKED
    if (ALLOWED == PACKED && j % 4 == 0) {
#pragma unroll
      for (int t = 0; t < ROW_TILES; t++) bits[t][0] = mask[at.row(t, 0) * MASK_WORDS + j / 4] >> at.column(0, 0), bits[t][1] = mask[at.row(t, 1) * MASK_WORDS + j / 4] >> at.column(0, 0);
    }
#endif
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int kv = kv0 + at.column(j, e);
#pragma unroll
      for (int t = 0; t < ROW_TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = at.row(t, half), q = at.firstPosition + row;
          const bool rowLive = row < at.numRows;
          float& x = s[t][j][2 * half + e];
          bool allowed = true;
          if (ALLOWED == PACKED) allowed = bits[t][half] >> (8 * (j % 4) + e) & 1;
          if (ALLOWED == ASKED) {
            allowed = kv < at.kvLength;
#if HAS_MASK
            allowed = allowed & (!partial | maskMod<GUARDED>(p, failure, rowLive & allowed & partial, 0.f, at.sequence, at.head, q, kv));
#endif
          }
#if !FOLD_SCALE
          x = scoreMod<GUARDED>(p, failure, rowLive & allowed, x * SCALE, at.sequence, at.head, q, kv);
#endif
#if HAS_WEIGHT
          x = weightMod<GUARDED>(p, failure, rowLive & allowed, x, at.sequence, at.head, q, kv);
          if (CHECKED && !allowed) x = 0.f;
#else
          if (CHECKED && !allowed) x = -infinity();
          highest[t][half] = fmaxf(highest[t][half], x);
#endif
        }
    }
  }
#if !HAS_WEIGHT
#pragma unroll
  for (int t = 0; t < ROW_TILES; t++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float& m = highest[t][half];
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
      const float origin = m == -infinity() ? 0.f : m * EXPONENT_SCALE;
      const float keep = exp2Approx(fmaf(state.m[t][half], EXPONENT_SCALE, -origin));
      state.m[t][half] = m;
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < COLUMNS; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& x = s[t][j][2 * half + e];
          x = exp2Approx(fmaf(x, EXPONENT_SCALE, -origin));
          sum += x;
        }
      state.l[t][half] = fmaf(state.l[t][half], keep, sum);
#pragma unroll
      for (int d = 0; d < OUT_TILES; d++) {
        state.out[t][d][2 * half] *= keep;
        state.out[t][d][2 * half + 1] *= keep;
      }
    }
  }
#endif
}

/// O += P V.
__device__ __forceinline__ void multiplyValues(float (&s)[ROW_TILES][COLUMNS][4], State& state, u32 sharedV, const Place& at) {
  const u32 vAt = sharedV + (at.lane & 15) * STRIDE_V + 16 * (at.lane >> 4);
#pragma unroll
  for (int k = 0; k < BN / 16; k++) {
    u32 weights[ROW_TILES][4];
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++) {
      weights[t][0] = pack2(s[t][2 * k][0], s[t][2 * k][1]);
      weights[t][1] = pack2(s[t][2 * k][2], s[t][2 * k][3]);
      weights[t][2] = pack2(s[t][2 * k + 1][0], s[t][2 * k + 1][1]);
      weights[t][3] = pack2(s[t][2 * k + 1][2], s[t][2 * k + 1][3]);
    }
#pragma unroll
    for (int d = 0; d < OUT_TILES; d += 2) {
      u32 values[4];
      loadMatricesTransposed(values, vAt + k * 16 * STRIDE_V + 16 * d);
#pragma unroll
      for (int t = 0; t < ROW_TILES; t++) {
        multiplyAdd(state.out[t][d], weights[t], values[0], values[1]);
        multiplyAdd(state.out[t][d + 1], weights[t], values[2], values[3]);
      }
    }
  }
}

__device__ __forceinline__ void finish(const Params& p, Failure& failure, State& state, const Place& at) {
#pragma unroll
  for (int t = 0; t < ROW_TILES; t++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float& l = state.l[t][half];
      l += __shfl_xor_sync(~0u, l, 1);
      l += __shfl_xor_sync(~0u, l, 2);
      const int row = at.row(t, half);
      if (row >= at.numRows) continue;
      float out[OUT_TILES][2];
#pragma unroll
      for (int d = 0; d < OUT_TILES; d++) {
        out[d][0] = state.out[t][d][2 * half];
        out[d][1] = state.out[t][d][2 * half + 1];
      }
      writeRow(p, failure, out, state.m[t][half], l, at.sequence, at.head, at.firstRow + row, at.firstPosition + row, at.lane & 3);
    }
  }
}

/// What all threads of a block know alike stands in shared memory, and is read where it is wanted: registers are for scores and sums.
struct Shared {
  int item[8];
  Blocks blocks;
  int upcoming; // its code

  /// The block, and how its keys are allowed: 8 block + 4 (which half of the mask's memory) + 2 packed + partial; or -1.
  __device__ __forceinline__ int code(const Params& p) const {
    if (!blocks.more()) return -1;
    int code = 8 * blocks.block + (blocks.partial ? 1 : 0);
#if MASK_PACKED
    const int number = blocks.number + blocks.block;
    if (blocks.partial && number < p.maskBlocks) code += 2 + 4 * (number & 1);
#endif
    return code;
  }
};

__device__ __forceinline__ Place placeOf(const volatile int* item, int subTile) {
  Place at;
  at.head = blockIdx.x % NUM_QUERY_HEADS;
  at.sequence = item[0];
  at.firstRow = item[1] + subTile * BM;
  at.numRows = item[2] - subTile * BM;
  at.firstPosition = item[3] + subTile * BM;
  at.kvLength = item[6];
  at.warpRow = (threadIdx.x >> 5) * ROW_TILES * 16;
  at.lane = threadIdx.x & 31;
  return at;
}

/// The bits of a block's rows, where it has some.
__device__ __forceinline__ void loadMask(const Params& p, u8* shared, const volatile Blocks& blocks, int subTile, int code) {
#if MASK_PACKED
  if (!(code & 2)) return;
  const int pieces = 4 * MASK_WORDS * min(BM, MASK_ROWS - subTile * BM) / 16;
  const i64 number = blocks.number + (code >> 3);
  const u8* const from = (const u8*)(p.mask + (number * MASK_ROWS + subTile * BM) * MASK_WORDS);
  for (int i = threadIdx.x; i < pieces; i += THREADS) copyAsync16(sharedAddress(shared) + (code & 4 ? MASK_BYTES : 0) + 16 * i, from + 16 * i, true);
#endif
}

#if MASK_PACKED
/// What the mask says of partial blocks: a bit for each row and key, in words of 32 keys, row by row, MASK_ROWS rows a block; 0 also behind the rows and keys
/// there are. Once for all heads, and for all layers that share the work list. A warp asks of 32 keys at a time.
extern "C" __global__ void __launch_bounds__(256) packMask(const __grid_constant__ Params p) {
  waitForEarlierKernels();
  letNextKernelStart();
  const int index = blockIdx.x / PACK_BLOCKS, lane = threadIdx.x & 31;
  if (index >= p.work[0]) return;
  const int* const item = p.work + 8 + 8 * index;
  if (item[2] <= p.decodeRows) return;
  Failure failure((int4*)p.failure);
  for (Blocks blocks(p.work + p.work[1], item); blocks.more(); blocks.next()) {
    const int number = blocks.number + blocks.block;
    if (!blocks.partial || number % PACK_BLOCKS != blockIdx.x % PACK_BLOCKS) continue;
    if (number >= p.maskBlocks) break;
    for (int i = threadIdx.x >> 5; i < MASK_ROWS * MASK_WORDS; i += 8) {
      const int row = i / MASK_WORDS, column = 32 * (i % MASK_WORDS) + lane, kv = blocks.block * BN + column;
      const bool live = row < item[2] && column < BN && kv < item[6];
      const bool allowed = maskMod<true>(p, failure, live, 0.f, item[0], 0, item[3] + row, kv) & live;
      const u32 bits = __ballot_sync(~0u, allowed);
      if (lane == 0) p.mask[((i64)number * MASK_ROWS + row) * MASK_WORDS + i % MASK_WORDS] = bits;
    }
  }
  failure.finish();
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) attention(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) u8 shared[];
  __shared__ Shared common;
  waitForEarlierKernels();
  letNextKernelStart();
  const int index = blockIdx.x / (NUM_QUERY_HEADS * SUB_TILES), subTile = blockIdx.x / NUM_QUERY_HEADS % SUB_TILES;
  if (index >= p.work[0]) return;
  {
    const int* const item = p.work + 8 + 8 * index;
    if (item[2] - subTile * BM <= 0 || item[2] <= p.decodeRows) return;
    if (threadIdx.x < 8) common.item[threadIdx.x] = item[threadIdx.x];
    if (threadIdx.x == 0) {
      common.blocks = Blocks(p.work + p.work[1], item);
      common.upcoming = common.code(p);
    }
  }
  __syncthreads();
  u8* const sharedK = shared + BM * STRIDE_QK;
  u8* const sharedV = sharedK + BN * STRIDE_QK;
  u8* const sharedMask = sharedV + BN * STRIDE_V; // of two blocks: the next one's bits come while this one's are read
  State state;
  {
    const Place at = placeOf(common.item, subTile);
    loadQueries<BM, THREADS>(p, shared, at.sequence, at.head, at.firstRow, at.numRows);
#pragma unroll
    for (int t = 0; t < ROW_TILES; t++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        state.m[t][half] = startMax(p, at.head);
        state.l[t][half] = (at.lane & 3) == 0 ? startSum() : 0.f;
      }
#pragma unroll
      for (int d = 0; d < OUT_TILES; d++) state.out[t][d][0] = state.out[t][d][1] = state.out[t][d][2] = state.out[t][d][3] = 0.f;
    }
  }
  Failure failure((int4*)p.failure);
  int current = common.upcoming;
  if (current >= 0) {
    loadKeys<THREADS>(p, sharedK, common.item, blockIdx.x % NUM_QUERY_HEADS / GROUP, (current >> 3) * BN);
    loadMask(p, sharedMask, common.blocks, subTile, current);
  }
  copyCommit();
  while (current >= 0) {
    copyWait<0>();
    __syncthreads(); // these keys are there; nobody reads the values before them any more
    loadValues<THREADS>(p, sharedV, common.item, blockIdx.x % NUM_QUERY_HEADS / GROUP, (current >> 3) * BN);
    copyCommit();
    if (threadIdx.x == 0) {
      common.blocks.next();
      common.upcoming = common.code(p);
    }
    const bool warpLive = placeOf(common.item, subTile).warpRow < placeOf(common.item, subTile).numRows;
    float s[ROW_TILES][COLUMNS][4];
    if (warpLive) multiplyKeys(s, sharedAddress(shared), sharedAddress(sharedK), placeOf(common.item, subTile));
    copyWait<0>();
    __syncthreads(); // these values are there; nobody reads these keys any more
    const int following = *(volatile int*)&common.upcoming;
    if (following >= 0) {
      loadKeys<THREADS>(p, sharedK, common.item, blockIdx.x % NUM_QUERY_HEADS / GROUP, (following >> 3) * BN);
      loadMask(p, sharedMask, common.blocks, subTile, following);
    }
    copyCommit();
    if (warpLive) {
      const Place at = placeOf(common.item, subTile);
      const int kv0 = (current >> 3) * BN;
      const bool partial = current & 1;
      const bool checked = partial || kv0 + BN > at.kvLength;
      const u32* const mask = (const u32*)(sharedMask + (current & 4 ? MASK_BYTES : 0));
#if MASK_PACKED
      if (current & 2) softmaxStep<PACKED, true>(p, failure, s, state, at, kv0, true, mask);
      else
#endif
#if PLAIN_LOADS
      if (checked && plainInRange(p, at.firstPosition + BM - 1, kv0 + BN - 1)) softmaxStep<ASKED, false>(p, failure, s, state, at, kv0, partial, mask);
      else
#endif
      if (checked) softmaxStep<ASKED, true>(p, failure, s, state, at, kv0, partial, mask);
      else softmaxStep<ALL, true>(p, failure, s, state, at, kv0, false, mask);
      multiplyValues(s, state, sharedAddress(sharedV), at);
    }
    current = following;
  }
  copyWait<0>();
  const Place at = placeOf(common.item, subTile);
  if (at.warpRow < at.numRows) finish(p, failure, state, at);
  failure.finish();
}

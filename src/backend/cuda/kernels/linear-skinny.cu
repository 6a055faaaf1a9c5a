/**
 * linear for up to 16 rows: out[r, n] = sum_k x[r, k] weight[n, k], at the speed at which the weight can be read.
 *
 * The weight is the 16-row operand of mma.sync and the rows of x are its 8 columns, MT times. A tile is 16 rows of the weight; its K is shared
 * by 8 warps, 64 columns at a time in turn, and by gridDim.y blocks ("splits") of `chunk` columns. Blocks walk tiles blockIdx.x, + gridDim.x, ...
 *
 *   weight --cp.async--> ring of `depth` pieces of 16 x 64 of each warp --> registers      a lane reads back what it wrote itself: no barriers
 *   x      --cp.async--> rows of chunk + 32 columns, which all warps share
 *
 * A lane's 16 bytes of weight row g at k + 8t are taken as the columns 2t and 2t + 8 of two mma in turn, and those of x too, so the sum runs
 * over a permuted k and nothing is shuffled. The ring is filled across tiles, and before the kernel waits for its inputs: the weight is nobody's output.
 *
 * The next kernel may start once a block has asked for its last piece: what that one fills its own ring with keeps the memory busy while other
 * blocks of this one end. A block takes over half of the shared memory, so one of the next starts on each SM, and not two on the first to be free.
 *
 * The order of a sum: mma by mma in a warp, warps 0 to 7, splits 0 to the last; then + bias, + residual. It depends on k and the number of splits.
 *
 * With FUSED defined the text compiles to products that do their neighbours' work too, for up to 8 rows, and write what those would have written:
 * NORM: x is f32; rmsNorm of it is `normed` and is multiplied. GATE and ROPE take pairs of columns, so a tile is 8 rows of the weight and the 8 that
 * stand `half` behind them: of the up half behind the gate, of a head's second half behind its first. `product` is what would have been out.
 * GATE: out is activate(gate) * up of it. ROPE: heads of q and k in it are turned in place, k and v kept in the cache, as ropeAndCache does.
 * All bits are those of the kernels one after the other.
 */
struct Params {
  const int* header;
  const void* x;            // 16-bit; f32 where NORM
  const u16* weight;        // [n, k]
  void* out;
  const float* bias;        // [n] or null
  const float* residual;    // f32 rows or null; may be out
  const float* normWeight;  // [k] where NORM
  u16* normed;              // [rows, k] where NORM
  u16* product;             // [rows, n] where GATE or ROPE
  float* partial;           // [splits, tiles, 8 MT, 16] where there is more than one split
  u32* arrived;             // [tiles] zeros; the last split leaves zeros
  int rowsWord, xStride, outStride, residualStride, normedStride, productStride, n, k, chunk, tiles, launched, wide, activation; // launched: rows that x has; what is in those beyond the step's is not used
  int depth;                // of the ring: 3 to 6
  float epsilon;
  // Where ROPE, as rope.cu has them:
  const int* positions;     // [launched]
  const int* slots;         // [launched]
  const float2* rotary;     // [positions, headDim / 2] of (cos, sin)
  u16* key;                 // the caches, of heads of headDim
  u16* value;
  int numQueryHeads, numKvHeads, headDim, pageSize;
};

/** What is done with a product behind it, instead of writing it to out. */
enum Behind { NOTHING, GATE, ROPE };

constexpr int WARPS = 8, THREADS = 32 * WARPS, PIECE = 2048, SUM_STRIDE = 20, SUMS = 8 * SUM_STRIDE;

/** Returns when the oldest piece of a full ring has arrived: all but the depth - 2 after it, as the newest is still to be asked for. */
__device__ __forceinline__ void waitForPiece(int depth) {
  if (depth == 6) waitForCopies<4>();
  else if (depth == 5) waitForCopies<3>();
  else if (depth == 4) waitForCopies<2>();
  else waitForCopies<1>();
}

/** A thread's first vectors of the norm's weight: read ahead of the inputs. */
constexpr int KEPT = 4;
struct NormWeights { float4 first[KEPT]; };

/** Sums of squares of ROWS rows of x from `row` on, whose loads are in flight together, by warp: squares[row][warp]. */
template<int ROWS> __device__ __forceinline__ void sumSquares(const Params& p, int row, int rows, float* squares) {
  const float4* from[ROWS];
  float sum[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    from[r] = (const float4*)((const float*)p.x + (i64)min(row + r, rows - 1) * p.xStride);
    sum[r] = 0.0f;
  }
#pragma unroll 4
  for (int i = threadIdx.x; i < p.k >> 2; i += THREADS) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) sum[r] = addSquares(sum[r], from[r][i]);
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    sum[r] = warpSum(sum[r]);
    if ((threadIdx.x & 31) == 0 && row + r < rows) squares[(row + r) * WARPS + (threadIdx.x >> 5)] = sum[r];
  }
}

/** rmsNorm of the launched rows, its columns [kBegin, kBegin + padded) as 16 bits to shared memory, zeros from `width` on; the first block of a split also writes that of the step's `rows` out. */
__device__ __forceinline__ void stageNormed(const Params& p, const NormWeights& w, u16* xs, int xsStride, int rows, int kBegin, int width, int padded, float* squares) {
  static_assert(WARPS == NORM_WARPS, "the norm's order of sums is of these warps");
  if (p.launched == 1) sumSquares<1>(p, 0, 1, squares);
  else if (p.launched == 2) sumSquares<2>(p, 0, 2, squares);
  else for (int row = 0; row < p.launched; row += 4) sumSquares<4>(p, row, p.launched, squares);
  __syncthreads();
  const int vectors = padded >> 2;
  const float4* weight = (const float4*)(p.normWeight + kBegin);
  for (int r = 0; r < p.launched; r++) {
    const float factor = normFactor(squares + r * WARPS, p.k, p.epsilon);
    const float4* from = (const float4*)((const float*)p.x + (i64)r * p.xStride + kBegin);
    auto put = [&](int i, float4 v, float4 weightOfFour) {
      const float4 y = normed(v, factor, weightOfFour);
      const uint2 two = make_uint2(pack(y.x, y.y), pack(y.z, y.w));
      *(uint2*)(xs + r * xsStride + 4 * i) = two;
      if (blockIdx.x == 0 && r < rows && 4 * i < width) *(uint2*)(p.normed + (i64)r * p.normedStride + kBegin + 4 * i) = two;
    };
    const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float4 v[KEPT];
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
      const int i = threadIdx.x + j * THREADS;
      v[j] = 4 * i < width ? from[i] : zero;
    }
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
      const int i = threadIdx.x + j * THREADS;
      if (i < vectors) put(i, v[j], w.first[j]);
    }
    for (int i = threadIdx.x + KEPT * THREADS; i < vectors; i += THREADS) put(i, 4 * i < width ? from[i] : zero, 4 * i < width ? __ldg(weight + i) : zero);
  }
}

template<int MT, bool NORM, Behind BEHIND> __device__ __forceinline__ void skinny(const Params& p) {
  static_assert(8 * MT * 16 <= THREADS, "a thread has at most one element of a tile");
  extern __shared__ __align__(128) u8 shared[];
  float* sums = (float*)(shared + WARPS * p.depth * PIECE);             // [2][WARPS][MT][8][SUM_STRIDE]
  int* isLast = (int*)(sums + 2 * WARPS * MT * SUMS);
  u16* xs = (u16*)(shared + WARPS * p.depth * PIECE + 2 * WARPS * MT * SUMS * 4 + 128);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int kBegin = blockIdx.y * p.chunk, width = min(p.chunk, p.k - kBegin), padded = (width + 63) & ~63, rounds = (width + 64 * WARPS - 1) / (64 * WARPS);
  const int xsStride = p.chunk + 32;
  const u32 ring = sharedAddress(shared) + warp * p.depth * PIECE + lane * 16;

  // The stream of this lane's pieces: which tile and round the next one is of, and where its two rows begin.
  constexpr bool PAIRS = BEHIND != NOTHING;
  const int half = (BEHIND == ROPE ? p.headDim : p.n) >> 1, lastRow = BEHIND == GATE ? half : p.n;
  auto firstRow = [&](int tile) { return BEHIND == NOTHING ? tile * 16 : BEHIND == GATE ? tile * 8 : tile * 8 + tile / (half >> 3) * half; };
  int nextTile = blockIdx.x, nextRound = 0;
  const u16 *low, *high;
  bool lowThere, highThere;
  auto locate = [&]() {
    const int a = firstRow(nextTile) + g, b = PAIRS ? a + half : a + 8;
    lowThere = a < lastRow;
    highThere = PAIRS ? lowThere : b < lastRow;
    low = p.weight + (i64)a * p.k + kBegin + 8 * t;
    high = p.weight + (i64)b * p.k + kBegin + 8 * t;
  };
  locate();
  const u64 policy = readOnce();
  auto fetch = [&](int stage) {
    if (nextTile < p.tiles) {
      const int k = (nextRound * WARPS + warp) * 64;
      const bool first = k + 8 * t < width, second = k + 32 + 8 * t < width;
      const u32 to = ring + stage * PIECE;
      copyAsync(to, low + k, first && lowThere, policy);
      copyAsync(to + 512, high + k, first && highThere, policy);
      copyAsync(to + 1024, low + k + 32, second && lowThere, policy);
      copyAsync(to + 1536, high + k + 32, second && highThere, policy);
      if (++nextRound == rounds) {
        nextRound = 0;
        nextTile += gridDim.x;
        if (nextTile >= p.tiles) releaseDependents();
        else locate();
      }
    }
    commitCopies();
  };
  for (int stage = 0; stage < p.depth - 1; stage++) fetch(stage);

  NormWeights normWeights;
  if (NORM) {
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
      const int i = threadIdx.x + j * THREADS;
      normWeights.first[j] = 4 * i < width ? __ldg((const float4*)(p.normWeight + kBegin) + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  }
  waitForInputs();
  const int rows = p.header[p.rowsWord]; // on its way while x is: which of its rows are the step's is not asked before they are used
  if (NORM) stageNormed(p, normWeights, xs, xsStride, rows, kBegin, width, padded, sums);
  else {
    for (int r = 0; r < p.launched; r++) {
      const u16* from = (const u16*)p.x + (i64)r * p.xStride + kBegin;
      for (int i = 8 * threadIdx.x; i < padded; i += 8 * THREADS) copyAsync(sharedAddress(xs + r * xsStride + i), from + i, i < width);
    }
  }
  commitCopies();
  // Of pairs a thread has this row of x, and this column of a tile's low and high ones.
  const int pairRow = threadIdx.x >> 3, pairColumn = threadIdx.x & 7;
  int position = 0, slot = 0;
  if (BEHIND == ROPE && pairRow < p.launched) {
    position = p.positions[pairRow];
    slot = p.slots[pairRow];
  }
  waitForCopies<0>();
  __syncthreads();

  const u32 mine = sharedAddress(xs + g * xsStride + 8 * t);
  int stage = 0, buffer = 0;
  for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x, buffer ^= 1) {
    // What is added to this thread's element of the result is read while the sum is computed.
    const int outRow = threadIdx.x >> 4, outColumn = tile * 16 + (threadIdx.x & 15);
    const bool writes = !PAIRS && outRow < rows && outColumn < p.n;
    const float bias = writes && p.bias ? p.bias[outColumn] : 0.0f;
    const float residual = writes && p.residual ? p.residual[(i64)outRow * p.residualStride + outColumn] : 0.0f;
    const int n = firstRow(tile) + pairColumn; // of a pair's low element
    const bool writesPair = PAIRS && pairRow < rows && n < lastRow;
    const int head = BEHIND == ROPE ? tile / (half >> 3) : 0, inHead = n - head * 2 * half;
    const bool rotated = BEHIND == ROPE && writesPair && head < p.numQueryHeads + p.numKvHeads;
    const float2 turn = rotated ? __ldg(p.rotary + (i64)position * half + inHead) : make_float2(1.0f, 0.0f);

    float acc[MT][4];
#pragma unroll
    for (int m = 0; m < MT; m++) acc[m][0] = acc[m][1] = acc[m][2] = acc[m][3] = 0.0f;
    for (int round = 0; round < rounds; round++) {
      waitForPiece(p.depth);
      fetch(stage == 0 ? p.depth - 1 : stage - 1); // the piece there was used in the round before
      const int k = (round * WARPS + warp) * 64;
      if (k < width) {
        const u32 from = ring + stage * PIECE;
        const uint4 a0 = loadShared(from), b0 = loadShared(from + 512), a1 = loadShared(from + 1024), b1 = loadShared(from + 1536);
#pragma unroll
        for (int m = 0; m < MT; m++) {
          if (8 * m < rows) {
            uint4 x0 = make_uint4(0, 0, 0, 0), x1 = x0;
            if (8 * m + g < rows) {
              const u32 at = mine + 2 * (8 * m * xsStride + k);
              x0 = loadShared(at);
              x1 = loadShared(at + 64);
            }
            mma(acc[m], a0.x, b0.x, a0.y, b0.y, x0.x, x0.y);
            mma(acc[m], a0.z, b0.z, a0.w, b0.w, x0.z, x0.w);
            mma(acc[m], a1.x, b1.x, a1.y, b1.y, x1.x, x1.y);
            mma(acc[m], a1.z, b1.z, a1.w, b1.w, x1.z, x1.w);
          }
        }
      }
      if (++stage == p.depth) stage = 0;
    }

    // The warps' sums as [row of x][row of the tile]; two buffers take turns, so one barrier a tile is enough.
    float* of = sums + buffer * WARPS * MT * SUMS;
#pragma unroll
    for (int m = 0; m < MT; m++) {
      float* to = of + (warp * MT + m) * SUMS + 2 * t * SUM_STRIDE + g;
      to[0] = acc[m][0];
      to[SUM_STRIDE] = acc[m][1];
      to[8] = acc[m][2];
      to[SUM_STRIDE + 8] = acc[m][3];
    }
    __syncthreads();
    auto sumOf = [&](int row, int i) {
      const float* from = of + row * SUM_STRIDE + i; // the m of a row is row / 8, and SUMS is 8 rows
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += from[w * MT * SUMS];
      return sum;
    };
    bool finish = gridDim.y == 1;
    const i64 tileAt = (i64)tile * 8 * MT * 16, splitStride = (i64)p.tiles * 8 * MT * 16;
    if (!finish) {
      if (threadIdx.x < rows * 16) __stcg(p.partial + blockIdx.y * splitStride + tileAt + threadIdx.x, sumOf(threadIdx.x >> 4, threadIdx.x & 15));
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        *isLast = atomicAdd(p.arrived + tile, 1u) == gridDim.y - 1;
        if (*isLast) p.arrived[tile] = 0;
      }
      __syncthreads();
      finish = *isLast != 0;
      if (finish) __threadfence();
    }
    if (finish) {
      auto value = [&](int row, int i) {
        if (gridDim.y == 1) return sumOf(row, i);
        float sum = 0.0f;
        for (int split = 0; split < gridDim.y; split++) sum += __ldcg(p.partial + split * splitStride + tileAt + row * 16 + i);
        return sum;
      };
      if (writesPair) {
        float low = value(pairRow, pairColumn), high = value(pairRow, pairColumn + 8);
        if (p.bias) { low += p.bias[n]; high += p.bias[n + half]; }
        u32 two = pack(low, high); // what is gated, or turned, is the product in 16 bits
        if (rotated) {
          low = lowOf(two);
          high = highOf(two);
          rotate(low, high, turn.x, turn.y);
          two = pack(low, high);
        }
        auto putPair = [&](u16* to) {
          to[0] = (u16)two;
          to[half] = (u16)(two >> 16);
        };
        putPair(p.product + (i64)pairRow * p.productStride + n);
        if (BEHIND == GATE) ((u16*)p.out)[(i64)pairRow * p.outStride + n] = packOne(activate(lowOf(two), p.activation) * highOf(two));
        if (BEHIND == ROPE && head >= p.numQueryHeads) {
          const int kvHead = head - p.numQueryHeads - (rotated ? 0 : p.numKvHeads), page = slot / p.pageSize;
          putPair((rotated ? p.key : p.value) + (((i64)page * p.numKvHeads + kvHead) * p.pageSize + slot - page * p.pageSize) * p.headDim + inHead);
        }
      } else if (writes) {
        float sum = value(outRow, threadIdx.x & 15);
        if (p.bias) sum += bias;
        if (p.residual) sum += residual;
        const i64 at = (i64)outRow * p.outStride + outColumn;
        if (p.wide) ((float*)p.out)[at] = sum;
        else ((u16*)p.out)[at] = packOne(sum);
      }
    }
  }
  waitForCopies<0>();
}

#define SKINNY(name, MT, NORM, BEHIND) \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) NAME(name)(const __grid_constant__ Params p) { skinny<MT, NORM, BEHIND>(p); }
#if !defined(FUSED)
SKINNY(linear8, 1, false, NOTHING)
SKINNY(linear16, 2, false, NOTHING)
#else
SKINNY(linear8Norm, 1, true, NOTHING)
SKINNY(linear8Gated, 1, false, GATE)
SKINNY(linear8NormGated, 1, true, GATE)
SKINNY(linear8Rope, 1, false, ROPE)
SKINNY(linear8NormRope, 1, true, ROPE)
#endif

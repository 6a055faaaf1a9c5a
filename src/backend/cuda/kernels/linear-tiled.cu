/**
 * linear for more rows: out[r, n] = sum_k x[r, k] weight[n, k], a block for each BM x BN tile of out and each split of k.
 *
 *   x, weight --cp.async--> STAGES pieces of BM x 64 and BN x 64, 16-byte columns c of row r at c ^ (r & 7) --ldmatrix--> registers --mma--> f32
 *
 * The order of a sum: k ascending in a split by steps of 16, splits 0 to the last; then + bias, + residual. The last split of a tile to end
 * adds all of them in order. Blocks walk 8 tiles of rows under one tile of columns, so that neighbours in time share both operands in L2.
 * What the weight adds to the first pieces is asked for before the kernel waits for its inputs.
 */
struct Params {
  const int* header;
  const u16* x;
  const u16* weight;        // [n, k]
  void* out;
  const float* bias;        // [n] or null
  const float* residual;    // f32 rows or null; may be out
  float* partial;           // [splits, tiles, BM * BN] where there is more than one split
  u32* arrived;             // [tiles] zeros; the last split leaves zeros
  int rowsWord, xStride, outStride, residualStride, n, k, chunk, rowTiles, columnTiles, wide, pairs, firstRow; // x, out and residual begin at row firstRow of the step
};

__device__ __forceinline__ void loadMatrices(u32 (&r)[4], u32 from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

/** out[row, n] and out[row, n + 1] from their sums. `pairs`: rows lie so that two elements can be moved at once, and n is even. */
__device__ __forceinline__ void writeTwo(const Params& p, int row, int n, float a, float b) {
  const bool second = n + 1 < p.n;
  if (p.bias) { a += p.bias[n]; if (second) b += p.bias[n + 1]; }
  const i64 at = (i64)row * p.outStride + n;
  const float* added = p.residual ? p.residual + (i64)row * p.residualStride + n : 0;
  if (p.pairs && second) {
    if (added) { float2 r = *(const float2*)added; a += r.x; b += r.y; }
    if (p.wide) *(float2*)((float*)p.out + at) = make_float2(a, b);
    else *(u32*)((u16*)p.out + at) = pack(a, b);
    return;
  }
  if (added) { a += added[0]; if (second) b += added[1]; }
  if (p.wide) { ((float*)p.out)[at] = a; if (second) ((float*)p.out)[at + 1] = b; }
  else { ((u16*)p.out)[at] = packOne(a); if (second) ((u16*)p.out)[at + 1] = packOne(b); }
}

/** A block's warps stand in BM / WM rows of BN / WN; each computes WM x WN. */
template<int BM, int BN, int WM, int WN, int STAGES> __device__ __forceinline__ void tiled(const Params& p) {
  constexpr int THREADS = 32 * (BM / WM) * (BN / WN), A_BYTES = BM * 128, PIECE = (BM + BN) * 128, STEP = THREADS / 8;
  constexpr int MI = WM / 16, NI = WN / 8, QUADS = MI * NI; // accumulators: QUADS of four
  extern __shared__ __align__(128) u8 shared[];
  __shared__ int isLast;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int rowBegin = (warp / (BN / WN)) * WM, columnBegin = (warp % (BN / WN)) * WN;

  // Tiles of rows in groups of 8; in a group all its tiles of rows for one tile of columns, then the next.
  const int perGroup = 8 * p.columnTiles, group = blockIdx.x / perGroup, inGroup = blockIdx.x % perGroup;
  const int groupRows = min(8, p.rowTiles - 8 * group), tileM = 8 * group + inGroup % groupRows, tileN = inGroup / groupRows;
  const int m0 = tileM * BM, n0 = tileN * BN, kBegin = blockIdx.y * p.chunk, kEnd = min(p.k, kBegin + p.chunk), pieces = (kEnd - kBegin + 63) >> 6;
  const u32 base = sharedAddress(shared);
  releaseDependents();

  // A thread copies the 16-byte column threadIdx & 7 of rows threadIdx / 8, + STEP, ...; STEP is a multiple of 8, so its place in each is the same.
  const int copyRow = threadIdx.x >> 3, copyColumn = threadIdx.x & 7;
  const u32 copyTo = base + copyRow * 128 + ((copyColumn ^ (copyRow & 7)) << 4);
  const u16* fromWeight = p.weight + (i64)(n0 + copyRow) * p.k + kBegin + 8 * copyColumn;
  const u16* fromX = p.x + (i64)(m0 + copyRow) * p.xStride + kBegin + 8 * copyColumn;
  auto copyWeight = [&](int stage, int piece) {
    const bool inK = piece < pieces && kBegin + 64 * piece + 8 * copyColumn < kEnd;
#pragma unroll
    for (int i = 0; i < BN / STEP; i++)
      copyAsync(copyTo + stage * PIECE + A_BYTES + i * STEP * 128, fromWeight + i * STEP * p.k + 64 * piece, inK && n0 + copyRow + i * STEP < p.n);
  };
  int rows = 0;
  auto copyX = [&](int stage, int piece) {
    const bool inK = piece < pieces && kBegin + 64 * piece + 8 * copyColumn < kEnd;
#pragma unroll
    for (int i = 0; i < BM / STEP; i++)
      copyAsync(copyTo + stage * PIECE + i * STEP * 128, fromX + i * STEP * p.xStride + 64 * piece, inK && m0 + copyRow + i * STEP < rows);
  };

#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) copyWeight(stage, stage);
  waitForInputs();
  rows = p.header[p.rowsWord] - p.firstRow;
  if (m0 >= rows) { // the whole block leaves, and its tile's other splits too
    commitCopies();
    waitForCopies<0>();
    return;
  }
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    copyX(stage, stage);
    commitCopies();
  }

  float acc[MI][NI][4];
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int j = 0; j < NI; j++) acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0.0f;

  const u32 fromA = base + (rowBegin + (lane & 15)) * 128, fromB = base + A_BYTES + (columnBegin + (lane & 7) + ((lane >> 4) << 3)) * 128;
  const int columnA = lane >> 4, columnB = (lane >> 3) & 1, turn = lane & 7;
  int stage = 0;
  for (int piece = 0; piece < pieces; piece++) {
    waitForCopies<STAGES - 2>();
    __syncthreads(); // the piece is here, and all have done with the one before it
    const int free = stage == 0 ? STAGES - 1 : stage - 1;
    copyWeight(free, piece + STAGES - 1);
    copyX(free, piece + STAGES - 1);
    commitCopies();
#pragma unroll
    for (int kk = 0; kk < 4; kk++) {
      u32 a[MI][4];
#pragma unroll
      for (int i = 0; i < MI; i++) loadMatrices(a[i], fromA + stage * PIECE + i * 16 * 128 + (((2 * kk + columnA) ^ turn) << 4));
#pragma unroll
      for (int j = 0; j < NI; j += 2) {
        u32 b[4];
        loadMatrices(b, fromB + stage * PIECE + j * 8 * 128 + (((2 * kk + columnB) ^ turn) << 4));
#pragma unroll
        for (int i = 0; i < MI; i++) {
          mma(acc[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b[0], b[1]);
          mma(acc[i][j + 1], a[i][0], a[i][1], a[i][2], a[i][3], b[2], b[3]);
        }
      }
    }
    if (++stage == STAGES) stage = 0;
  }
  waitForCopies<0>();

  if (gridDim.y > 1) {
    const i64 splitStride = (i64)p.rowTiles * p.columnTiles * QUADS * THREADS;
    float4* of = (float4*)p.partial + (i64)blockIdx.x * QUADS * THREADS + threadIdx.x;
    float4* to = of + blockIdx.y * splitStride;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NI; j++) __stcg(to + (i * NI + j) * THREADS, make_float4(acc[i][j][0], acc[i][j][1], acc[i][j][2], acc[i][j][3]));
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      isLast = atomicAdd(p.arrived + blockIdx.x, 1u) == gridDim.y - 1;
      if (isLast) p.arrived[blockIdx.x] = 0;
    }
    __syncthreads();
    if (!isLast) return;
    __threadfence();
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NI; j++) acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0.0f;
    const float4* from = of;
#pragma unroll 1
    for (int split = 0; split < gridDim.y; split++, from += splitStride) {
#pragma unroll
      for (int i = 0; i < MI; i++) {
#pragma unroll
        for (int j = 0; j < NI; j++) {
          const float4 v = __ldcg(from + (i * NI + j) * THREADS);
          acc[i][j][0] += v.x; acc[i][j][1] += v.y; acc[i][j][2] += v.z; acc[i][j][3] += v.w;
        }
        asm volatile("" ::: "memory"); // all loads at once would not leave room for the sums
      }
    }
  }

  const int row = m0 + rowBegin + (lane >> 2), column = n0 + columnBegin + 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int j = 0; j < NI; j++) {
      const int r = row + 16 * i, n = column + 8 * j;
      if (n >= p.n) continue;
      if (r < rows) writeTwo(p, r, n, acc[i][j][0], acc[i][j][1]);
      if (r + 8 < rows) writeTwo(p, r + 8, n, acc[i][j][2], acc[i][j][3]);
    }
}

extern "C" __global__ void __launch_bounds__(128, 2) NAME(linearTile64)(const __grid_constant__ Params p) { tiled<64, 128, 32, 64, 4>(p); }
extern "C" __global__ void __launch_bounds__(128, 2) NAME(linearTile128)(const __grid_constant__ Params p) { tiled<128, 128, 64, 64, 3>(p); }

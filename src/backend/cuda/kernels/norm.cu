/**
 * rmsNorm: out[r, :] = (residual[r, :] +) x[r, :] * weight / sqrt(mean(x[r, :]^2) + epsilon), x, weight and residual f32.
 *
 * A block of 256 threads is a row. A thread keeps the first four of its vectors of four in registers and reads any further ones twice, so
 * rows of 4096 columns are read once. Columns are a multiple of 4, rows lie on 16 bytes. The order of the sum is common.cu's.
 */
struct Params {
  const int* header;
  void* out;
  const float* x;
  const float* weight;
  const float* residual;
  int rowsWord, outStride, xStride, residualStride, columns;
  float epsilon;
};

template<bool WIDE> __device__ __forceinline__ void writeVector(const Params& p, int row, int i, float4 x, float4 w, float factor) {
  float4 y = normed(x, factor, w);
  if (p.residual) {
    float4 added = *(const float4*)(p.residual + (i64)row * p.residualStride + 4 * i);
    y.x += added.x; y.y += added.y; y.z += added.z; y.w += added.w;
  }
  if (WIDE) *(float4*)((float*)p.out + (i64)row * p.outStride + 4 * i) = y;
  else *(uint2*)((u16*)p.out + (i64)row * p.outStride + 4 * i) = make_uint2(pack(y.x, y.y), pack(y.z, y.w));
}

template<bool WIDE> __device__ __forceinline__ void rmsNormRow(const Params& p) {
  constexpr int KEPT = 4, step = 32 * NORM_WARPS;
  __shared__ float sums[NORM_WARPS];
  const int row = blockIdx.x, vectors = p.columns >> 2;
  float4 x[KEPT], w[KEPT];
  releaseDependents();
#pragma unroll
  for (int j = 0; j < KEPT; j++) {
    int i = threadIdx.x + j * step;
    w[j] = i < vectors ? __ldg((const float4*)p.weight + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  waitForInputs();
  const int rows = p.header[p.rowsWord]; // x is read at the same time: the launch has no more rows than x
  const float4* from = (const float4*)(p.x + (i64)row * p.xStride);
  float squares = 0.0f;
#pragma unroll
  for (int j = 0; j < KEPT; j++) {
    int i = threadIdx.x + j * step;
    x[j] = i < vectors ? from[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  if (row >= rows) return;
#pragma unroll
  for (int j = 0; j < KEPT; j++) squares = addSquares(squares, x[j]);
#pragma unroll 4
  for (int i = threadIdx.x + KEPT * step; i < vectors; i += step) squares = addSquares(squares, from[i]);
  squares = warpSum(squares);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = squares;
  __syncthreads();
  const float factor = normFactor(sums, p.columns, p.epsilon);
#pragma unroll
  for (int j = 0; j < KEPT; j++) {
    int i = threadIdx.x + j * step;
    if (i < vectors) writeVector<WIDE>(p, row, i, x[j], w[j], factor);
  }
  for (int i = threadIdx.x + KEPT * step; i < vectors; i += step) writeVector<WIDE>(p, row, i, from[i], __ldg((const float4*)p.weight + i), factor);
}

extern "C" __global__ void __launch_bounds__(256) NAME(rmsNorm)(const __grid_constant__ Params p) { rmsNormRow<false>(p); }
extern "C" __global__ void __launch_bounds__(256) NAME(rmsNormWide)(const __grid_constant__ Params p) { rmsNormRow<true>(p); }

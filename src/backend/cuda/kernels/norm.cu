/**
 * rmsNorm: out[r, :] = (residual[r, :] +) x[r, :] * weight / sqrt(mean(x[r, :]^2) + epsilon), x, weight and residual f32.
 *
 * A block is a row. A thread keeps the first four of its vectors of four in registers and reads any further ones twice, so rows of
 * 16 * blockDim columns are read once. Columns are a multiple of 4, rows lie on 16 bytes.
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
  float4 y = make_float4(x.x * factor * w.x, x.y * factor * w.y, x.z * factor * w.z, x.w * factor * w.w);
  if (p.residual) {
    float4 added = *(const float4*)(p.residual + (i64)row * p.residualStride + 4 * i);
    y.x += added.x; y.y += added.y; y.z += added.z; y.w += added.w;
  }
  if (WIDE) *(float4*)((float*)p.out + (i64)row * p.outStride + 4 * i) = y;
  else *(uint2*)((u16*)p.out + (i64)row * p.outStride + 4 * i) = make_uint2(pack(y.x, y.y), pack(y.z, y.w));
}

template<bool WIDE> __device__ __forceinline__ void rmsNormRow(const Params& p) {
  constexpr int KEPT = 4;
  __shared__ float sums[32];
  const int row = blockIdx.x, vectors = p.columns >> 2, step = blockDim.x;
  float4 x[KEPT], w[KEPT];
  releaseDependents();
#pragma unroll
  for (int j = 0; j < KEPT; j++) {
    int i = threadIdx.x + j * step;
    w[j] = i < vectors ? __ldg((const float4*)p.weight + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  waitForInputs();
  if (row >= p.header[p.rowsWord]) return;
  const float4* from = (const float4*)(p.x + (i64)row * p.xStride);
  float squares = 0.0f;
#pragma unroll
  for (int j = 0; j < KEPT; j++) {
    int i = threadIdx.x + j * step;
    x[j] = i < vectors ? from[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
#pragma unroll
  for (int j = 0; j < KEPT; j++) squares += x[j].x * x[j].x + x[j].y * x[j].y + x[j].z * x[j].z + x[j].w * x[j].w;
  for (int i = threadIdx.x + KEPT * step; i < vectors; i += step) {
    float4 v = from[i];
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  squares = warpSum(squares);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = squares;
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < step >> 5; i++) total += sums[i];
  const float factor = 1.0f / sqrtf(total / (float)p.columns + p.epsilon);
#pragma unroll
  for (int j = 0; j < KEPT; j++) {
    int i = threadIdx.x + j * step;
    if (i < vectors) writeVector<WIDE>(p, row, i, x[j], w[j], factor);
  }
  for (int i = threadIdx.x + KEPT * step; i < vectors; i += step) writeVector<WIDE>(p, row, i, from[i], __ldg((const float4*)p.weight + i), factor);
}

extern "C" __global__ void __launch_bounds__(1024) NAME(rmsNorm)(const __grid_constant__ Params p) { rmsNormRow<false>(p); }
extern "C" __global__ void __launch_bounds__(1024) NAME(rmsNormWide)(const __grid_constant__ Params p) { rmsNormRow<true>(p); }

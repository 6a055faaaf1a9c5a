/**
 * The ops that take each element by itself: embed, gatedActivation, gatherRows and softCap. One struct of parameters for all.
 *
 * Rows are in grid y, pieces of a row in grid x. Knows no sum.
 */
struct Params {
  const int* header;
  void* out;
  const void* from;      // embed: the table; gatedActivation: gateUp; gatherRows: x; softCap: nothing, it works in place on out
  const int* index;      // embed: tokens; gatherRows: logitRows
  int rowsWord, outStride, fromStride, columns, activation;
  float factor;          // embed: scale; softCap: cap
};

/** The row of this block, or -1 where the step has fewer. */
__device__ __forceinline__ int begin(const Params& p) {
  releaseDependents();
  waitForInputs();
  return (int)blockIdx.y < p.header[p.rowsWord] ? (int)blockIdx.y : -1;
}

/** out f32, the table 16-bit, columns a multiple of 8: eight elements a thread. */
extern "C" __global__ void __launch_bounds__(256) NAME(embed)(const __grid_constant__ Params p) {
  const int row = begin(p), i = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (row < 0 || i >= p.columns) return;
  const uint4 v = __ldg((const uint4*)((const u16*)p.from + (i64)p.index[row] * p.fromStride + i));
  float4* to = (float4*)((float*)p.out + (i64)row * p.outStride + i);
  to[0] = make_float4(lowOf(v.x) * p.factor, highOf(v.x) * p.factor, lowOf(v.y) * p.factor, highOf(v.y) * p.factor);
  to[1] = make_float4(lowOf(v.z) * p.factor, highOf(v.z) * p.factor, lowOf(v.w) * p.factor, highOf(v.w) * p.factor);
}

__device__ __forceinline__ u32 gated(u32 gate, u32 up, int activation) {
  return pack(activate(lowOf(gate), activation) * lowOf(up), activate(highOf(gate), activation) * highOf(up));
}
/** out[r, i] = f(gateUp[r, i]) * gateUp[r, columns + i], both 16-bit, columns a multiple of 8: eight elements a thread. */
extern "C" __global__ void __launch_bounds__(256) NAME(gatedActivation)(const __grid_constant__ Params p) {
  const int row = begin(p), i = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (row < 0 || i >= p.columns) return;
  const u16* from = (const u16*)p.from + (i64)row * p.fromStride + i;
  const uint4 gate = *(const uint4*)from, up = *(const uint4*)(from + p.columns);
  *(uint4*)((u16*)p.out + (i64)row * p.outStride + i) =
    make_uint4(gated(gate.x, up.x, p.activation), gated(gate.y, up.y, p.activation), gated(gate.z, up.z, p.activation), gated(gate.w, up.w, p.activation));
}

/** f of this thread's eight elements of a row, a block's width apart; any columns. All are read before the first is written, so that they are in flight together. */
template<class F> __device__ __forceinline__ void mapRow(const float* from, float* to, int columns, F f) {
  const int first = blockIdx.x * 8 * blockDim.x + threadIdx.x;
  float x[8];
#pragma unroll
  for (int j = 0; j < 8; j++) {
    int i = first + j * blockDim.x;
    x[j] = i < columns ? from[i] : 0.0f;
  }
#pragma unroll
  for (int j = 0; j < 8; j++) {
    int i = first + j * blockDim.x;
    if (i < columns) to[i] = f(x[j]);
  }
}

/** out[i, :] = x[logitRows[i], :], f32. */
extern "C" __global__ void __launch_bounds__(256) NAME(gatherRows)(const __grid_constant__ Params p) {
  const int row = begin(p);
  if (row < 0) return;
  mapRow((const float*)p.from + (i64)p.index[row] * p.fromStride, (float*)p.out + (i64)row * p.outStride, p.columns, [](float x) { return x; });
}

/** tanh, a few units of f32 off: the first terms of its series near 0, where the quotient would cancel. */
__device__ __forceinline__ float tanhOf(float x) {
  const float a = fabsf(x), square = x * x, t = __expf(-2.0f * a);
  const float series = a * (1.0f + square * (-0.33333334f + square * (0.13333334f + square * (-0.053968254f + square * 0.021869488f))));
  return copysignf(a < 0.3f ? series : __fdividef(1.0f - t, 1.0f + t), x);
}

/** out = cap * tanh(out / cap), f32. */
extern "C" __global__ void __launch_bounds__(256) NAME(softCap)(const __grid_constant__ Params p) {
  const int row = begin(p);
  if (row < 0) return;
  float* x = (float*)p.out + (i64)row * p.outStride;
  const float cap = p.factor, inverse = 1.0f / cap;
  mapRow(x, x, p.columns, [=](float x) { return cap * tanhOf(x * inverse); });
}

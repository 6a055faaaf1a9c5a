/**
 * What every kernel of a fixed op stands on: the 16-bit element type, programmatic launches, and reading the step's row count.
 *
 * A module is compiled for one element type: ELEMENT_BF16 or ELEMENT_F16 is defined before this text, and NAME(k) is k_bf16 or k_f16.
 * Two elements lie in a u32, the first in its lower half. Knows no op.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#if defined(ELEMENT_BF16)
#define NAME(kernel) kernel##_bf16
#define MMA_TYPES "bf16.bf16"
__device__ __forceinline__ float lowOf(u32 two) { return __uint_as_float(two << 16); }
__device__ __forceinline__ float highOf(u32 two) { return __uint_as_float(two & 0xffff0000u); }
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 two;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  return two;
}
#elif defined(ELEMENT_F16)
#define NAME(kernel) kernel##_f16
#define MMA_TYPES "f16.f16"
__device__ __forceinline__ float lowOf(u32 two) {
  float x;
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(x) : "r"(two));
  return x;
}
__device__ __forceinline__ float highOf(u32 two) {
  float x;
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(x) : "r"(two));
  return x;
}
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 two;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  return two;
}
#else
#error "ELEMENT_BF16 or ELEMENT_F16 must be defined"
#endif

__device__ __forceinline__ u16 packOne(float x) { return (u16)pack(x, 0.0f); }
__device__ __forceinline__ float valueOf(u16 element) { return lowOf(element); }

/** d += a b for one 16x16 by 16x8 tile. Lane 4g + t holds of a: rows g, g + 8 at k 2t and 2t + 8; of b: column g; of d: rows g, g + 8 at columns 2t. */
__device__ __forceinline__ void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32." MMA_TYPES ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/** Returns when every kernel before this one has ended and its writes are seen. Before it only weights may be read. All threads call it. */
__device__ __forceinline__ void waitForInputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/** Lets the next kernel start where there is room; it waits by itself before it reads what this one writes. */
__device__ __forceinline__ void releaseDependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ u32 sharedAddress(const void* at) { return (u32)__cvta_generic_to_shared(at); }
/** 16 bytes from global to shared memory, in the background; zeros where `there` is false, and then `from` is not read. */
__device__ __forceinline__ void copyAsync(u32 to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
/** How L2 is told of what is read once a step: it goes first, and small things that are wanted again stay, code among them. */
__device__ __forceinline__ u64 readOnce() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/** `copyAsync` under a policy. */
__device__ __forceinline__ void copyAsync(u32 to, const void* from, bool there, u64 policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" :: "r"(to), "l"(from), "r"(there ? 16 : 0), "l"(policy) : "memory");
}
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/** Returns when all but the `PENDING` last committed groups of this thread have arrived. */
template<int PENDING> __device__ __forceinline__ void waitForCopies() { asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory"); }

__device__ __forceinline__ uint4 loadShared(u32 from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
  return v;
}

/** The sum over the lanes of a warp, in every lane. */
__device__ __forceinline__ float warpSum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

/**
 * rmsNorm of a row by NORM_WARPS warps, wherever it is computed: thread t adds the squares of the vectors of four t, t + 256, ... in turn, then the
 * lanes of a warp, then the warps. So a norm inside another kernel gives the bits of a norm by itself.
 */
constexpr int NORM_WARPS = 8;
__device__ __forceinline__ float addSquares(float sum, float4 v) { return __fmaf_rn(v.w, v.w, __fmaf_rn(v.z, v.z, __fmaf_rn(v.y, v.y, __fmaf_rn(v.x, v.x, sum)))); }
__device__ __forceinline__ float normFactor(const float* warpSums, int columns, float epsilon) {
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < NORM_WARPS; w++) total += warpSums[w];
  return 1.0f / sqrtf(__fadd_rn(total / (float)columns, epsilon));
}
__device__ __forceinline__ float4 normed(float4 x, float factor, float4 w) {
  return make_float4(__fmul_rn(x.x * factor, w.x), __fmul_rn(x.y * factor, w.y), __fmul_rn(x.z * factor, w.z), __fmul_rn(x.w * factor, w.w));
}

/** A pair of a head turned by its token's angle, wherever it is computed: what to round and what to fuse is not the compiler's choice. */
__device__ __forceinline__ void rotate(float& a, float& b, float cosine, float sine) {
  const float first = a;
  a = __fmaf_rn(first, cosine, -__fmul_rn(b, sine));
  b = __fmaf_rn(first, sine, __fmul_rn(b, cosine));
}

/** The nonlinearities: `activation` is 0 silu, 1 geluTanh, 2 gelu, 3 relu. Errors of a few units of f32, far below a rounding to 16 bits. */
__device__ __forceinline__ float sigmoidTimes(float x, float u) { return __fdividef(x, 1.0f + __expf(-u)); }
__device__ __forceinline__ float activate(float x, int activation) {
  if (activation == 0) return sigmoidTimes(x, x);
  if (activation == 1) return sigmoidTimes(x, 1.5957691216057308f * (x + 0.044715f * x * x * x)); // (1 + tanh u) / 2 = 1 / (1 + e^-2u)
  if (activation == 2) return 0.5f * x * erfcf(-0.7071067811865476f * x);
  return fmaxf(x, 0.0f);
}

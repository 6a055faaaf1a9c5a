// What attention kernels share: 16-bit types, ldmatrix, mma, asynchronous copies, and the arithmetic of mods.
// No header is included: this text is compiled by NVRTC alone. `Element` (bf16 or f16 bits) is chosen by ELEMENT_BF16.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float nan32() { return __int_as_float(0x7fc00000); }

// ---- 16-bit elements ----

/// Two f32 as two elements of a word, `low` in its lower half; rounded to nearest, ties to even.
__device__ __forceinline__ u32 pack2(float low, float high) {
  u32 word;
#if ELEMENT_BF16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
#endif
  return word;
}
__device__ __forceinline__ u16 pack1(float x) { return (u16)(pack2(x, 0.f) & 0xffff); }

__device__ __forceinline__ float halfToFloat(u16 bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

/// e4m3 without infinities. Its bits moved into an f16 are 2^-8 of the value, subnormals too; 0x7f is NaN.
__device__ __forceinline__ float fp8ToFloat(u8 bits) {
  const float x = 256.f * halfToFloat((u16)(((bits & 0x80) << 8) | ((bits & 0x7f) << 7)));
  return (bits & 0x7f) == 0x7f ? nan32() : x;
}
__device__ __forceinline__ float int8ToFloat(u8 bits) { return (float)(signed char)bits; }

// ---- tensor cores ----

__device__ __forceinline__ u32 sharedAddress(const void* p) { return (u32)__cvta_generic_to_shared(p); }

/// Four 8x8 matrices of elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void loadMatrices(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
/// The same, each matrix transposed.
__device__ __forceinline__ void loadMatricesTransposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

/// d[16 x 8] += a[16 x 16] b[16 x 8]. d: rows lane / 4 (d0, d1) and lane / 4 + 8 (d2, d3), columns 2 (lane % 4) and the next.
__device__ __forceinline__ void multiplyAdd(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if ELEMENT_BF16
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#endif
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- asynchronous copies ----

/// 16 bytes from global to shared memory, past L1; zeros where not `valid`.
__device__ __forceinline__ void copyAsync16(u32 shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copyCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most N groups of this thread are still on their way.
template <int N> __device__ __forceinline__ void copyWait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#if PROGRAMMATIC_LAUNCH
/// What a kernel before this one in the stream has written may be read from here on.
__device__ __forceinline__ void waitForEarlierKernels() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
/// The next kernel may begin what does not depend on this one.
__device__ __forceinline__ void letNextKernelStart() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
#else
__device__ __forceinline__ void waitForEarlierKernels() {}
__device__ __forceinline__ void letNextKernelStart() {}
#endif

// ---- arithmetic of mods: ir/expr.ts says what each operator means ----

__device__ __forceinline__ float exp2Approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Within 2^-10.9 of tanh, relatively: finer than bf16 has scores, and as fine as f16 has them.
__device__ __forceinline__ float tanhApprox(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ int wrapAdd(int a, int b) { return (int)((u32)a + (u32)b); }
__device__ __forceinline__ int wrapSub(int a, int b) { return (int)((u32)a - (u32)b); }
__device__ __forceinline__ int wrapMul(int a, int b) { return (int)((u32)a * (u32)b); }
__device__ __forceinline__ int wrapNeg(int x) { return (int)(0u - (u32)x); }
__device__ __forceinline__ int wrapAbs(int x) { return x < 0 ? wrapNeg(x) : x; }
__device__ __forceinline__ int shiftLeft(int a, int b) { return (int)((u32)a << (b & 31)); }
__device__ __forceinline__ int shiftRight(int a, int b) { return a >> (b & 31); }
/// By zero: 0. By -1: the wrapped negative, and no rest.
__device__ __forceinline__ int truncDiv(int a, int b) { return b == 0 ? 0 : b == -1 ? wrapNeg(a) : a / b; }
__device__ __forceinline__ int remainder(int a, int b) { return b == 0 || b == -1 ? 0 : a % b; }
__device__ __forceinline__ int floorDiv(int a, int b) {
  const int q = truncDiv(a, b);
  return b != 0 && b != -1 && q * b != a && ((a < 0) != (b < 0)) ? q - 1 : q;
}
__device__ __forceinline__ int floorMod(int a, int b) {
  const int r = remainder(a, b);
  return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
}
__device__ __forceinline__ float floorDiv(float a, float b) { return (float)floor((double)a / (double)b); }
__device__ __forceinline__ float floorMod(float a, float b) { return (float)((double)a - floor((double)a / (double)b) * (double)b); }
/// NaN where either is, and -0 below +0.
__device__ __forceinline__ float least(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ float most(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ int least(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int most(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ float sign(float x) { return x > 0.f ? 1.f : x < 0.f ? -1.f : x; }
__device__ __forceinline__ int sign(int x) { return (x > 0) - (x < 0); }
/// Halves go up; what is negative rounds to -0 at most.
__device__ __forceinline__ float roundHalfUp(float x) {
  const float below = floorf(x), y = below + (x - below >= 0.5f ? 1.f : 0.f);
  return __int_as_float(__float_as_int(y) | (__float_as_int(x) & 0x80000000));
}
/// JavaScript's **: NaN for 1 ** NaN and (+-1) ** infinity, where C has 1.
__device__ __forceinline__ float power(float a, float b) { return b != b || (fabsf(a) == 1.f && fabsf(b) == infinity()) ? nan32() : powf(a, b); }

/// 2 / pi in binary, 32 bits a word, for angles too large for pi in double precision.
__constant__ u32 twoOverPi[] = {0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab, 0};

/// x less the nearest multiple of pi / 2, and that multiple modulo 4. Keeps no array, so needs no stack.
__device__ __forceinline__ float reduceAngle(float x, int& quadrant) {
  const float size = fabsf(x);
  if (!(size < infinity())) { quadrant = 0; return nan32(); }
  if (size < 134217728.f) {
    // pi / 2 in two parts of double precision: what a multiple below 2^27 loses is 2^-52 of the second.
    const double k = rint((double)x * 0.63661977236758134308);
    quadrant = (int)k & 3;
    return (float)fma(-k, 1.58932547735281966916e-08, fma(-k, 1.57079631090164184570, (double)x));
  }
  // The fraction of x * 2 / pi: of the product with the mantissa only the bits around the point are wanted.
  const u32 bits = __float_as_uint(size), mantissa = (bits & 0x7fffff) | 0x800000;
  // size = mantissa * 2^shift. Bits of 2 / pi that weigh 4 or more in size * 2 / pi / mantissa are left out: multiples of whole turns.
  const int start = (int)(bits >> 23) - 150 - 2, word = start >> 5, by = start & 31;
  const u32 w0 = __funnelshift_l(twoOverPi[word + 1], twoOverPi[word], by), w1 = __funnelshift_l(twoOverPi[word + 2], twoOverPi[word + 1], by);
  const u32 w2 = __funnelshift_l(twoOverPi[word + 3], twoOverPi[word + 2], by);
  const u64 low = (u64)mantissa * w2, middle = (u64)mantissa * w1 + (low >> 32);
  const u64 fraction = ((u64)(mantissa * w0) << 32) + middle; // modulo 2^64: two bits before the point
  int k = (int)(fraction >> 62);
  i64 rest = (i64)(fraction << 2);
  if (rest < 0) k++; // nearest: the rest becomes negative
  const double r = (double)rest * (1.5707963267948966 / 18446744073709551616.0);
  quadrant = (x < 0.f ? -k : k) & 3;
  return (float)(x < 0.f ? -r : r);
}
__device__ __forceinline__ float sinReduced(float r) {
  const float s = r * r;
  return fmaf(r * s, fmaf(s, fmaf(s, -1.9515295891e-4f, 8.3321608736e-3f), -1.6666654611e-1f), r);
}
__device__ __forceinline__ float cosReduced(float r) {
  const float s = r * r;
  return fmaf(s * s, fmaf(s, fmaf(s, 2.443315711809948e-5f, -1.388731625493765e-3f), 4.166664568298827e-2f), fmaf(s, -0.5f, 1.f));
}
__device__ __forceinline__ float sine(float x) {
  int k;
  const float r = reduceAngle(x, k), y = k & 1 ? cosReduced(r) : sinReduced(r);
  return x == 0.f ? x : k & 2 ? -y : y;
}
__device__ __forceinline__ float cosine(float x) {
  int k;
  const float r = reduceAngle(x, k), y = k & 1 ? sinReduced(r) : cosReduced(r);
  return (k + 1) & 2 ? -y : y;
}
__device__ __forceinline__ float tangent(float x) {
  int k;
  const float r = reduceAngle(x, k), s = sinReduced(r), c = cosReduced(r);
  return x == 0.f ? x : k & 1 ? -c / s : s / c;
}

/// The first load out of range that a thread met where its value mattered; told once, when the kernel ends.
struct Failure {
  int where = 0; // 1 + 8 * capture + dimension
  int index = 0;
  /// `i` where it is in range, else 0; notes an index out of range that is `live`.
  __device__ __forceinline__ int guard(int i, int extent, bool live, int place) {
    const bool outside = (u32)i >= (u32)extent;
    if (outside & live) { where = place; index = i; }
    return outside ? 0 : i;
  }
  /// to: [taken, where, index]
  __device__ __forceinline__ void tell(int* to) const {
    if (where != 0 && atomicCAS(to, 0, 1) == 0) { to[1] = where; to[2] = index; }
  }
};

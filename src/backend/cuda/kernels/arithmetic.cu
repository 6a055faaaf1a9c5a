// The arithmetic of mods: what ir/expr.ts says of each operator, as device functions that expr.ts calls. And names of types.
// No header is included: this text is compiled by NVRTC alone. It stands first, and knows no kernel.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float nan32() { return __int_as_float(0x7fc00000); }

/// Within 2^-10.9 of tanh, relatively: finer than bf16 has scores, and as fine as f16 has them.
__device__ __forceinline__ float tanhApprox(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// An exponential, a quotient and a root to a few units in the last place, for parts of mods in which nothing jumps.
__device__ __forceinline__ float expApprox(float x) { return __expf(x); }
__device__ __forceinline__ float quotientApprox(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ float sqrtApprox(float x) {
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
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
/// In the two roundings that it says: a multiplication that is joined with the subtraction has other bits.
__device__ __forceinline__ float floorMod(float a, float b) { return (float)__dsub_rn((double)a, __dmul_rn(floor((double)a / (double)b), (double)b)); }
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

/// Where loads out of range are told: [1, place, index, -] of one of them, place being 1 + 8 * capture + dimension.
struct Failure {
  int4* to;
  int where, index;
  __device__ __forceinline__ explicit Failure(int4* to) : to(to), where(0), index(0) {}
  /// `i` where it is in range, else 0. An index out of range that is `live` is noted, and told when the kernel ends: nothing stands in the way of taking
  /// the load out of a loop.
  __device__ __forceinline__ int note(int i, int extent, bool live, int place) {
    const bool outside = (u32)i >= (u32)extent;
    if (outside & live) { where = place; index = i; }
    return outside ? 0 : i;
  }
  /// The same of an index that was asked for before, where not `guarded`; and told at once, as what is never taken should take no registers.
  template <bool guarded> __device__ __forceinline__ int guard(int i, int extent, bool live, int place) const {
    if (!guarded) return i;
    const bool outside = (u32)i >= (u32)extent;
    if (outside & live) *to = make_int4(1, place, i, 0);
    return outside ? 0 : i;
  }
  __device__ __forceinline__ void finish() const {
    if (where != 0) *to = make_int4(1, where, index, 0);
  }
};

// CUDA's arithmetic for a C++ compiler: what mods are made of (src/backend/cuda/expr.test.ts) and the kernels around them (cuda-emulator.h).
#pragma once
#include <cmath>
#include <cstring>

#define __device__
#define __constant__ static const
#define __forceinline__ inline

/// What approximate instructions are off by; exact unless a test says otherwise.
inline float nudge = 1.f;

struct alignas(16) int4 { int x, y, z, w; };
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

template <class To, class From> inline To bitsAs(From x) { static_assert(sizeof(To) == sizeof(From), ""); To y; memcpy(&y, &x, sizeof y); return y; }
inline float __int_as_float(int x) { return bitsAs<float>(x); }
inline int __float_as_int(float x) { return bitsAs<int>(x); }
inline unsigned __float_as_uint(float x) { return bitsAs<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return bitsAs<float>(x); }
inline double __hiloint2double(int high, int low) { return bitsAs<double>((unsigned long long)(unsigned)high << 32 | (unsigned)low); }
inline float __int2float_rn(int x) { return (float)x; }
inline int __float2int_rz(float x) { return x != x ? 0 : x >= 2147483648.f ? 2147483647 : x <= -2147483648.f ? -2147483647 - 1 : (int)x; }
inline unsigned __funnelshift_l(unsigned low, unsigned high, int by) { return by ? high << by | low >> (32 - by) : high; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __expf(float x) { return expf(x) * nudge; }
inline float __fdividef(float a, float b) { return a / b * nudge; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __double2float_rn(double x) { return (float)x; }
/// Halves to even, as the machine starts.
inline unsigned long long __double2ull_rn(double x) { return (unsigned long long)nearbyint(x); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline float minNan(float a, float b) { return a != a || b != b ? NAN : a == b ? (std::signbit(a) ? a : b) : a < b ? a : b; }
inline float maxNan(float a, float b) { return a != a || b != b ? NAN : a == b ? (std::signbit(a) ? b : a) : a > b ? a : b; }

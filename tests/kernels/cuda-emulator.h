// CUDA for a C++ compiler: what the kernels of attention and of sampling use of it, a thread of a block being a fiber (cuda-emulator.cpp). Stands before each kernel's text;
// the assembly in these texts is replaced by calls of what is defined at the end (cuda-emulator.ts). Approximate instructions are exact here, a product of
// matrices is summed in double precision and rounded once.
#pragma once
#include "cuda-arithmetic.h"
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __CUDA_ARCH__ 900

// ---- the machine ----

struct Index { unsigned x, y, z; };
extern Index threadIdx, blockIdx, blockDim;
extern unsigned char* dynamicShared;
/// Called by every thread for what a kernel declares as shared: when the first of a block comes, it is filled with NaN.
void beginsUndefined(void* shared, size_t bytes);
[[noreturn]] void fail(const char* why);
void __syncthreads();
/// Waits until all 32 lanes are here, each with its own operands; the last to come computes for all. Lanes must have come for the same.
void together(void (*compute)(void* const* lanes), void* mine);
/// 16 bytes to shared memory, zeros where `bytes` is 0: done when a wait demands it at the latest.
void copyLater(unsigned shared, const void* from, int bytes);
void commitCopies();
void waitForCopies(int groups);

// ---- types and plain functions ----

struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

template <class T> inline T* alignedTo(T* p, size_t bytes) {
  if ((uintptr_t)p % bytes != 0) fail("an address that is not aligned to what is read or written there");
  return p;
}
template <class T> inline T __ldg(const T* p) { return *alignedTo(p, sizeof(T)); }
template <class T> inline T __ldcg(const T* p) { return *alignedTo(p, sizeof(T)); }
template <class T> inline void __stcg(T* p, T x) { *alignedTo(p, sizeof(T)) = x; }
template <class T> inline T atomicAdd(T* p, T x) { const T was = *p; *p += x; return was; }
inline void __threadfence() {}
inline size_t __cvta_generic_to_shared(const void* p) { return (size_t)((const unsigned char*)p - dynamicShared); }
inline unsigned char* sharedAt(unsigned address) { return alignedTo(dynamicShared + address, 16); }

// ---- between the lanes of a warp ----

template <class T> struct Shuffle { T x, y; int by; };
template <class T> inline T __shfl_xor_sync(unsigned, T x, int by) {
  Shuffle<T> mine = {x, x, by};
  together([](void* const* lanes) {
    for (int l = 0; l < 32; l++) ((Shuffle<T>*)lanes[l])->y = ((Shuffle<T>*)lanes[l ^ ((Shuffle<T>*)lanes[l])->by])->x;
  }, &mine);
  return mine.y;
}
template <class T> inline T __shfl_up_sync(unsigned, T x, int by) {
  Shuffle<T> mine = {x, x, by};
  together([](void* const* lanes) {
    for (int l = 31; l >= 0; l--) if (l >= ((Shuffle<T>*)lanes[l])->by) ((Shuffle<T>*)lanes[l])->y = ((Shuffle<T>*)lanes[l - ((Shuffle<T>*)lanes[l])->by])->x;
  }, &mine);
  return mine.y;
}
struct Ballot { bool mine; unsigned all; };
inline unsigned __ballot_sync(unsigned, bool x) {
  Ballot mine = {x, 0};
  together([](void* const* lanes) {
    unsigned all = 0;
    for (int l = 0; l < 32; l++) all |= (unsigned)((Ballot*)lanes[l])->mine << l;
    for (int l = 0; l < 32; l++) ((Ballot*)lanes[l])->all = all;
  }, &mine);
  return mine.all;
}
inline bool __any_sync(unsigned, bool x) {
  bool mine = x;
  together([](void* const* lanes) {
    bool any = false;
    for (int l = 0; l < 32; l++) any |= *(bool*)lanes[l];
    for (int l = 0; l < 32; l++) *(bool*)lanes[l] = any;
  }, &mine);
  return mine;
}

template <class T> struct Reduction { T x; };
template <class T> inline T __reduce_max_sync(unsigned, T x) {
  Reduction<T> mine = {x};
  together([](void* const* lanes) {
    T most = ((Reduction<T>*)lanes[0])->x;
    for (int l = 1; l < 32; l++) most = max(most, ((Reduction<T>*)lanes[l])->x);
    for (int l = 0; l < 32; l++) ((Reduction<T>*)lanes[l])->x = most;
  }, &mine);
  return mine.x;
}
template <class T> inline T __reduce_min_sync(unsigned, T x) {
  Reduction<T> mine = {x};
  together([](void* const* lanes) {
    T least = ((Reduction<T>*)lanes[0])->x;
    for (int l = 1; l < 32; l++) least = min(least, ((Reduction<T>*)lanes[l])->x);
    for (int l = 0; l < 32; l++) ((Reduction<T>*)lanes[l])->x = least;
  }, &mine);
  return mine.x;
}

// ---- what stands for assembly ----

/// A kernel's function called with the one parameter that it takes.
template <class P> inline void callKernel(void (*kernel)(P), const void* p) { kernel(*(const P*)p); }

/// Four 8x8 matrices of shared memory, each lane giving the address of a row; transposed or not.
void loadMatrices4(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned address);
void loadMatrices4Transposed(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned address);
/// d[16 x 8] += a[16 x 16] b[16 x 8], of bf16 or f16.
void multiplyAddBf16(float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1);
void multiplyAddF16(float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1);
float widenF16(unsigned bits);
/// Rounded to nearest, ties to even.
unsigned narrowBf16(float x);
unsigned narrowF16(float x);

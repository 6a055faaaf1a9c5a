// What attention kernels share of the machine: 16-bit elements, ldmatrix, mma, asynchronous copies.
// No header is included: this text is compiled by NVRTC alone. `Element` (bf16 or f16 bits) is chosen by ELEMENT_BF16.

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
/// The same of what is read once a step, by one block: it leaves L2 first, and small things that are wanted again stay, code among them.
__device__ __forceinline__ void copyAsync16Once(u32 shared, const void* global, bool valid) {
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0), "l"(policy) : "memory");
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

// ---- softmax ----

__device__ __forceinline__ float exp2Approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

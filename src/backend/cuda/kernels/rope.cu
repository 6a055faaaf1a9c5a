/**
 * ropeAndCache: on the packed rows [q heads | k heads | v heads] of qkv, in place: RMS norm of each q and k head where weights are given,
 * rotation of the pairs (i, i + half) by the token's position, then K and V to their places in the cache.
 *
 *   block (b, t): heads b * headsPerBlock ... of token t; `group` lanes a head, a power of two up to 32
 *   a piece of a head is V pairs (V elements of each half), or V elements behind the rotary ones; lane l takes pieces l, l + group, ...
 *
 * V is 8 where half and head sizes are multiples of 8, so a lane moves 16 bytes at a time; 1 for all others.
 */
struct Params {
  const int* header;
  u16* qkv;
  const int* positions;
  const int* slots;
  const float* rotary;
  const float* qNorm;
  const float* kNorm;
  u8* key;
  u8* value;
  int rowsWord, qkvStride, numQueryHeads, numKvHeads, headDim, valueHeadDim, half, pageSize, keyFormat, valueFormat, group;
  float epsilon;
};

template<int V> __device__ __forceinline__ void loadElements(float (&x)[V], const u16* from) {
  if constexpr (V == 8) {
    uint4 v = *(const uint4*)from;
    x[0] = lowOf(v.x); x[1] = highOf(v.x); x[2] = lowOf(v.y); x[3] = highOf(v.y); x[4] = lowOf(v.z); x[5] = highOf(v.z); x[6] = lowOf(v.w); x[7] = highOf(v.w);
  } else x[0] = valueOf(*from);
}
template<int V> __device__ __forceinline__ void storeElements(u16* to, const float (&x)[V]) {
  if constexpr (V == 8) *(uint4*)to = make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
  else *to = packOne(x[0]);
}
template<int V> __device__ __forceinline__ void loadFloats(float (&x)[V], const float* from) {
  if constexpr (V == 8) {
    float4 a = __ldg((const float4*)from), b = __ldg((const float4*)from + 1);
    x[0] = a.x; x[1] = a.y; x[2] = a.z; x[3] = a.w; x[4] = b.x; x[5] = b.y; x[6] = b.z; x[7] = b.w;
  } else x[0] = __ldg(from);
}

__device__ __forceinline__ u32 pairAs(int format, float low, float high) {
  u32 two;
  if (format == 1) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  else asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  return two;
}
/** V elements to the cache from element `at` on; `format` is 0 f32, 1 bf16, 2 f16. */
template<int V> __device__ __forceinline__ void keep(u8* cache, i64 at, int format, const float (&x)[V]) {
  if constexpr (V == 8) {
    if (format == 0) {
      float4* to = (float4*)(cache + 4 * at);
      to[0] = make_float4(x[0], x[1], x[2], x[3]);
      to[1] = make_float4(x[4], x[5], x[6], x[7]);
    } else *(uint4*)(cache + 2 * at) = make_uint4(pairAs(format, x[0], x[1]), pairAs(format, x[2], x[3]), pairAs(format, x[4], x[5]), pairAs(format, x[6], x[7]));
  } else {
    if (format == 0) *(float*)(cache + 4 * at) = x[0];
    else *(u16*)(cache + 2 * at) = (u16)pairAs(format, x[0], 0.0f);
  }
}

template<int V> __device__ __forceinline__ void ropeAndCache(const Params& p) {
  releaseDependents();
  waitForInputs();
  const int token = blockIdx.y, group = p.group, lane = threadIdx.x & (group - 1);
  // Read together, as the launch has no more tokens than there are places for.
  const int tokens = p.header[p.rowsWord], slot = p.slots[token], position = p.positions[token];
  if (token >= tokens) return;
  const int numRotated = p.numQueryHeads + p.numKvHeads, head = blockIdx.x * (blockDim.x / group) + threadIdx.x / group;
  const bool there = head < numRotated + p.numKvHeads, rotated = head < numRotated, isKey = rotated && head >= p.numQueryHeads;
  u16* row = p.qkv + (i64)token * p.qkvStride;
  const int page = slot / p.pageSize, inPage = slot % p.pageSize;

  // Sums are taken by whole warps, so heads that are not there stay until they are done.
  u16* x = row + head * p.headDim;
  const float* norm = !rotated ? 0 : isKey ? p.kNorm : p.qNorm;
  float squares = 0.0f;
  if (there && norm) {
    for (int i = lane * V; i < p.headDim; i += group * V) {
      float a[V];
      loadElements<V>(a, x + i);
#pragma unroll
      for (int e = 0; e < V; e++) squares += a[e] * a[e];
    }
  }
  for (int distance = group >> 1; distance > 0; distance >>= 1) squares += __shfl_xor_sync(0xffffffffu, squares, distance);
  if (!there) return;

  if (!rotated) {
    const int kvHead = head - numRotated;
    const u16* from = row + numRotated * p.headDim + kvHead * p.valueHeadDim;
    const i64 to = (((i64)page * p.numKvHeads + kvHead) * p.pageSize + inPage) * p.valueHeadDim;
    for (int i = lane * V; i < p.valueHeadDim; i += group * V) {
      float a[V];
      loadElements<V>(a, from + i);
      keep<V>(p.value, to + i, p.valueFormat, a);
    }
    return;
  }

  const float factor = norm ? 1.0f / sqrtf(squares / (float)p.headDim + p.epsilon) : 1.0f;
  const float* angles = p.rotary + (i64)position * 2 * p.half;
  const i64 to = (((i64)page * p.numKvHeads + head - p.numQueryHeads) * p.pageSize + inPage) * p.headDim;
  const int pairPieces = p.half / V, pieces = pairPieces + (p.headDim - 2 * p.half) / V;
  for (int piece = lane; piece < pieces; piece += group) {
    const bool pairs = piece < pairPieces;
    const int i = pairs ? piece * V : 2 * p.half + (piece - pairPieces) * V, j = i + p.half;
    float a[V], b[V], w[V];
    loadElements<V>(a, x + i);
    if (norm) {
      loadFloats<V>(w, norm + i);
#pragma unroll
      for (int e = 0; e < V; e++) a[e] *= factor * w[e];
    }
    if (pairs) {
      loadElements<V>(b, x + j);
      if (norm) {
        loadFloats<V>(w, norm + j);
#pragma unroll
        for (int e = 0; e < V; e++) b[e] *= factor * w[e];
      }
#pragma unroll
      for (int e = 0; e < V; e += V > 1 ? 2 : 1) {
        if constexpr (V > 1) {
          float4 turn = __ldg((const float4*)(angles + 2 * (i + e))); // cos, sin, cos, sin
          rotate(a[e], b[e], turn.x, turn.y);
          rotate(a[e + 1], b[e + 1], turn.z, turn.w);
        } else {
          float2 turn = __ldg((const float2*)(angles + 2 * i));
          rotate(a[0], b[0], turn.x, turn.y);
        }
      }
      storeElements<V>(x + j, b);
      if (isKey) keep<V>(p.key, to + j, p.keyFormat, b);
    }
    storeElements<V>(x + i, a);
    if (isKey) keep<V>(p.key, to + i, p.keyFormat, a);
  }
}

extern "C" __global__ void __launch_bounds__(128) NAME(ropeAndCache)(const __grid_constant__ Params p) { ropeAndCache<8>(p); }
extern "C" __global__ void __launch_bounds__(128) NAME(ropeAndCacheOdd)(const __grid_constant__ Params p) { ropeAndCache<1>(p); }

// Reads memory and keeps next to nothing of it: how fast a GPU can read.
typedef unsigned int u32;
struct __align__(16) Piece { u32 x, y, z, w; };
struct Params { const Piece* data; u32* out; long long count; };

__device__ __forceinline__ Piece load(const Piece* at) {
  Piece p;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(p.x), "=r"(p.y), "=r"(p.z), "=r"(p.w) : "l"(at));
  return p;
}

/// AHEAD pieces of 16 bytes are on their way at once for each thread; all threads side by side.
template <int AHEAD> __device__ __forceinline__ void readAll(const Params& p) {
  const long long step = (long long)gridDim.x * blockDim.x;
  u32 sum = 0;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at + (AHEAD - 1) * step < p.count; at += AHEAD * step) {
    Piece pieces[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) pieces[i] = load(p.data + at + i * step);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) sum += pieces[i].x ^ pieces[i].y ^ pieces[i].z ^ pieces[i].w;
  }
  if (sum == 0x9e3779b9u) *p.out = sum;   // so that the loads are not left out
}

extern "C" __global__ void __launch_bounds__(512) read2(const __grid_constant__ Params p) { readAll<2>(p); }
extern "C" __global__ void __launch_bounds__(512) read4(const __grid_constant__ Params p) { readAll<4>(p); }
extern "C" __global__ void __launch_bounds__(512) read8(const __grid_constant__ Params p) { readAll<8>(p); }

/** CUDA C++ by which device.ts tries a device: each kernel is for one thing that a device must do. */
export const source = `
struct Axpy { float* y; int n; float a; const float* x; };
extern "C" __global__ void axpy(const __grid_constant__ Axpy p) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.y[i] = p.a * p.x[i] + p.y[i];
}
struct Step { unsigned* x; int n; };
extern "C" __global__ void step(const __grid_constant__ Step p) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.x[i] = p.x[i] * 3u + 7u;
}
extern "C" __global__ void dependent(const __grid_constant__ Step p) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.x[i] = p.x[i] * 3u + 7u;
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
struct Spin { long long cycles; };
extern "C" __global__ void spin(const __grid_constant__ Spin p) { long long t = clock64(); while (clock64() - t < p.cycles) {} }
extern "C" __global__ void shared_sum(const __grid_constant__ Step p) {
  extern __shared__ unsigned s[];
  for (int i = threadIdx.x; i < p.n; i += blockDim.x) s[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) { unsigned sum = 0; for (int i = 0; i < p.n; i++) sum += s[i]; p.x[0] = sum; }
}
struct alignas(64) Map { unsigned long long v[16]; };
struct Tma { float* out; int x; int y; Map map; };
#if __CUDA_ARCH__ >= 900
extern "C" __global__ void tma(const __grid_constant__ Tma p) {
  __shared__ alignas(128) float tile[8 * 32];
  __shared__ alignas(8) unsigned long long bar;
  unsigned b = (unsigned)__cvta_generic_to_shared(&bar), d = (unsigned)__cvta_generic_to_shared(tile);
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(b));
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 1024;" :: "r"(b) : "memory");
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
      :: "r"(d), "l"(&p.map), "r"(p.x), "r"(p.y), "r"(b) : "memory");
  }
  __syncthreads();
  asm volatile("{ .reg .pred q; L: mbarrier.try_wait.parity.shared::cta.b64 q, [%0], 0; @!q bra L; }" :: "r"(b) : "memory");
  p.out[threadIdx.x] = tile[threadIdx.x];
}
#endif
extern "C" __global__ void out_of_bounds(const __grid_constant__ Step p) { p.x[(1ull << 40) + threadIdx.x] = 1; }
`;

// Thread blocks one after another, the threads of a block as fibers of one thread: each runs until it must wait for others, then another that is ready does.
// Which one, and when asynchronous copies land, is the launch's `order`: whatever CUDA may do must give the same.
// Reads launches and the GPU's memory from stdin, writes that memory to stdout.
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>
#include "cuda-emulator.h"

typedef void (*Kernel)(const void* params);
extern const Kernel kernels[];

Index threadIdx, blockIdx, blockDim;
unsigned char* dynamicShared;

void fail(const char* why) {
  fprintf(stderr, "thread %u of block %u: %s\n", threadIdx.x, blockIdx.x, why);
  exit(3);
}

struct Copy { unsigned shared; const void* from; int bytes, group; };
struct Fiber {
  jmp_buf at;
  unsigned index;
  bool barrier;
  int committed;
  std::vector<Copy> copies;
};
struct Warp {
  void* lanes[32];
  void (*compute)(void* const*);
  int arrived;
};

constexpr int mostThreads = 1024;
constexpr size_t stackBytes = 256 * 1024, sharedBytes = 256 * 1024, pageBytes = 65536;
static Fiber fibers[mostThreads];
static Warp warps[mostThreads / 32];
static std::vector<Fiber*> ready;
static Fiber* current;
static jmp_buf scheduler;
static ucontext_t whole, starting;
static int alive, waiting; // threads that have not ended; those at the barrier
static Kernel kernel;
static const void* params;
/// Bit 0: copies land when they are waited for, not at once. The others: 0 for the fiber that became ready last, else the seed of a random choice.
static unsigned order, random32;

static Fiber* choose() {
  size_t at = ready.size() - 1;
  if (order >> 1) {
    random32 = random32 * 1664525u + 1013904223u;
    at = (random32 >> 8) % ready.size();
  }
  Fiber* const chosen = ready[at];
  ready[at] = ready.back();
  ready.pop_back();
  return chosen;
}
/// Goes on with another fiber; without one, the block has ended, or nobody can go on.
[[noreturn]] static void leave() {
  if (ready.empty()) longjmp(scheduler, 1);
  current = choose();
  threadIdx.x = current->index;
  longjmp(current->at, 1);
}
static __attribute__((noinline)) void park() {
  if (_setjmp(current->at) == 0) leave();
}
static void openBarrier(int threads) {
  for (int i = 0; i < threads; i++) if (fibers[i].barrier) {
    fibers[i].barrier = false;
    if (&fibers[i] != current) ready.push_back(&fibers[i]);
  }
  waiting = 0;
}
static int numThreads;

void __syncthreads() {
  current->barrier = true;
  if (++waiting == alive) openBarrier(numThreads);
  else park();
}

void together(void (*compute)(void* const*), void* mine) {
  Warp& warp = warps[threadIdx.x / 32];
  if (warp.arrived == 0) warp.compute = compute;
  else if (warp.compute != compute) fail("lanes of a warp wait for each other at different instructions");
  warp.lanes[threadIdx.x % 32] = mine;
  if (++warp.arrived < 32) return park();
  compute(warp.lanes);
  warp.arrived = 0;
  for (unsigned l = 0; l < 32; l++) if (l != threadIdx.x % 32) ready.push_back(&fibers[threadIdx.x / 32 * 32 + l]);
}

/// What this block has declared as shared.
static std::vector<void*> declared;
void beginsUndefined(void* shared, size_t bytes) {
  for (void* const other : declared) if (other == shared) return;
  declared.push_back(shared);
  memset(shared, 0xff, bytes);
}

static void land(const Copy& copy) {
  if (copy.bytes) memcpy(sharedAt(copy.shared), alignedTo((const char*)copy.from, 16), 16);
  else memset(sharedAt(copy.shared), 0, 16);
}
void copyLater(unsigned shared, const void* from, int bytes) {
  const Copy copy = {shared, from, bytes, current->committed};
  if (order & 1) current->copies.push_back(copy);
  else land(copy);
}
void commitCopies() { current->committed++; }
void waitForCopies(int groups) {
  size_t n = 0;
  while (n < current->copies.size() && current->copies[n].group < current->committed - groups) land(current->copies[n++]);
  current->copies.erase(current->copies.begin(), current->copies.begin() + n);
}

// ---- instructions ----

static float widenBf16(unsigned bits) { return bitsAs<float>(bits << 16); }
float widenF16(unsigned bits) {
  const int exponent = bits >> 10 & 31;
  const float mantissa = (float)(bits & 1023), x = exponent == 0 ? ldexpf(mantissa, -24) : exponent == 31 ? (mantissa != 0.f ? NAN : INFINITY) : ldexpf(mantissa + 1024.f, exponent - 25);
  return bits & 0x8000 ? -x : x;
}
unsigned narrowBf16(float x) {
  if (x != x) return 0x7fff;
  const unsigned bits = bitsAs<unsigned>(x);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
/// nearbyint rounds halves to even, as the machine starts.
unsigned narrowF16(float x) {
  if (x != x) return 0x7fff;
  const unsigned sign = bitsAs<unsigned>(x) >> 16 & 0x8000;
  const float size = fabsf(x);
  if (size >= 65520.f) return sign | 0x7c00;
  if (size < 6.103515625e-5f) return sign | (unsigned)nearbyintf(ldexpf(size, 24));
  const int exponent = ilogbf(size);
  return sign | (((unsigned)(exponent + 14) << 10) + (unsigned)nearbyintf(ldexpf(size, 10 - exponent))); // the leading bit adds one to the exponent
}

struct Matrices { unsigned *to[4], address; };
template <bool TRANSPOSED> static void loadMatrices(void* const* lanes) {
  for (int m = 0; m < 4; m++) {
    unsigned short rows[8][8];
    for (int r = 0; r < 8; r++) memcpy(rows[r], sharedAt(((Matrices*)lanes[8 * m + r])->address), 16);
    for (int l = 0; l < 32; l++) {
      const int i = l / 4, j = 2 * (l % 4);
      *((Matrices*)lanes[l])->to[m] = TRANSPOSED ? rows[j][i] | (unsigned)rows[j + 1][i] << 16 : rows[i][j] | (unsigned)rows[i][j + 1] << 16;
    }
  }
}
void loadMatrices4(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned address) {
  Matrices mine = {{&a, &b, &c, &d}, address};
  together(loadMatrices<false>, &mine);
}
void loadMatrices4Transposed(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned address) {
  Matrices mine = {{&a, &b, &c, &d}, address};
  together(loadMatrices<true>, &mine);
}

struct Product { float* d[4]; unsigned a[4], b[2]; };
template <float (*WIDEN)(unsigned)> static void multiplyAdd(void* const* lanes) {
  float a[16][16], b[8][16];
  for (int l = 0; l < 32; l++) {
    const Product& from = *(Product*)lanes[l];
    const int g = l / 4, k = 2 * (l % 4);
    for (int e = 0; e < 2; e++) {
      for (int r = 0; r < 4; r++) a[g + 8 * (r & 1)][k + e + 8 * (r >> 1)] = WIDEN(from.a[r] >> 16 * e & 0xffff);
      for (int r = 0; r < 2; r++) b[g][k + e + 8 * r] = WIDEN(from.b[r] >> 16 * e & 0xffff);
    }
  }
  for (int l = 0; l < 32; l++) for (int i = 0; i < 4; i++) {
    const int row = l / 4 + 8 * (i >> 1), column = 2 * (l % 4) + (i & 1);
    float* const to = ((Product*)lanes[l])->d[i];
    double sum = *to;
    for (int k = 0; k < 16; k++) sum += (double)a[row][k] * b[column][k];
    *to = (float)sum;
  }
}
void multiplyAddBf16(float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  Product mine = {{&d0, &d1, &d2, &d3}, {a0, a1, a2, a3}, {b0, b1}};
  together(multiplyAdd<widenBf16>, &mine);
}
void multiplyAddF16(float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  Product mine = {{&d0, &d1, &d2, &d3}, {a0, a1, a2, a3}, {b0, b1}};
  together(multiplyAdd<widenF16>, &mine);
}

// ---- launches ----

static void run() {
  if (_setjmp(current->at) == 0) setcontext(&whole);
  for (;;) {
    kernel(params);
    if (!current->copies.empty()) fail("ends while copies are on their way");
    alive--;
    if (waiting > 0 && waiting == alive) openBarrier(numThreads);
    if (_setjmp(current->at) == 0) leave(); // until the next block begins
  }
}

static void* mapped(void* at, size_t bytes, int flags) {
  void* const p = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  if (p == MAP_FAILED || (at && p != at)) { perror("mmap"); exit(4); }
  return p;
}
static void readAll(void* to, size_t bytes) {
  if (bytes && fread(to, 1, bytes, stdin) != bytes) { fprintf(stderr, "the input ends early\n"); exit(4); }
}

int main() {
  unsigned long long head[4]; // address and bytes of the memory, launches, order
  readAll(head, sizeof head);
  void* const memory = mapped((void*)head[0], head[1], MAP_FIXED_NOREPLACE);
  readAll(memory, head[1]);
  order = (unsigned)head[3];
  random32 = order;
  // What lies behind a block's shared memory is no memory.
  unsigned char* const sharedEnd = (unsigned char*)mapped(0, sharedBytes + pageBytes, 0) + sharedBytes;
  mprotect(sharedEnd, pageBytes, PROT_NONE);
  char* const stacks = (char*)mapped(0, mostThreads * stackBytes, 0);
  for (int i = 0; i < mostThreads; i++) {
    current = &fibers[i];
    current->index = i;
    getcontext(&starting);
    starting.uc_stack.ss_sp = stacks + i * stackBytes;
    starting.uc_stack.ss_size = stackBytes;
    makecontext(&starting, run, 0);
    swapcontext(&whole, &starting);
  }
  static std::vector<unsigned long long> given;
  static unsigned launch[5]; // kernel, blocks, threads, shared bytes, bytes of parameters
  for (static unsigned long long n = 0; n < head[2]; n++) {
    readAll(launch, sizeof launch);
    given.resize(launch[4] / 8);
    readAll(given.data(), launch[4]);
    kernel = kernels[launch[0]];
    params = given.data();
    numThreads = blockDim.x = launch[2];
    dynamicShared = sharedEnd - launch[3];
    for (blockIdx.x = 0; blockIdx.x < launch[1]; blockIdx.x++) {
      memset(dynamicShared, 0xff, launch[3]); // NaN, whatever the element
      declared.clear();
      alive = numThreads;
      waiting = 0;
      for (int i = numThreads - 1; i >= 0; i--) {
        fibers[i].committed = 0;
        ready.push_back(&fibers[i]);
      }
      if (_setjmp(scheduler) == 0) leave();
      if (alive > 0) fail("no thread can go on: some wait for the block, some for their warp");
    }
  }
  fwrite(memory, 1, head[1], stdout);
}

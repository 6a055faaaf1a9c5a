/**
 * Rows of logits, as a block of threads reads them: what is largest, how a row splits into prefixes of its order, and how a token is chosen from it.
 *
 * Tokens are ordered by logit, equal ones by lowest id, and every filter keeps a prefix of that order. A prefix is a pair (key, id): all tokens with a
 * larger logit, and of those with this one the ids up to that. Its border is found by histograms: bins of equal width in logits first, so that
 * few threads meet in one, then the digits of the keys in the bin that holds the border.
 *
 * A token's mass 2^((logit - largest) log2(e) / temperature) is computed in doubles and rounded to a whole number of 2^-41; sums of these are exact in
 * any order, so a row's token depends on the row and its choice alone. The definition's masses are doubles, not rounded: the two can only differ where
 * topP, minP or uniform times the sum falls within the sum of these roundings, 2^-42 a token, of a border between two tokens.
 *
 * Stands behind common.cu and before each file of kernels that take a row a block. Knows no kernel.
 */
constexpr int HEADER_LOGITS = 2; // of the header's words
constexpr int CHOICE_WORDS = 10, TEMPERATURE = 0, TOP_P = 1, MIN_P = 2, UNIFORM = 3, TOP_K = 8, SKIP = 9; // doubles, but for the last two, which are words
constexpr int THREADS = 1024, WARPS = THREADS / 32, UNROLL = 4;
constexpr int BINS = 2 * THREADS;
constexpr int BIN_BITS = 11;
constexpr int TILE = 128;                         // logits that a warp reads at once
constexpr int MAX_COLUMNS = 1 << 18;              // and so many masses, or their parts, fit the sums below
constexpr int MAX_TILES = MAX_COLUMNS / TILE + 1; // a row may begin within 16 bytes
constexpr int MASS_BITS = 41, PART_BITS = 14;     // a mass is three parts of 14 bits in a histogram
constexpr u64 WHOLE = 1ull << MASS_BITS;
constexpr unsigned ALL = 0xffffffffu;

struct Shared {
  u32 histogram[3][BINS];
  u64 tiles[MAX_TILES];
  u64 warpSums[WARPS + 1];
  u64 before, inside; // a border's: the weight in front of its bin, and that of the bin
  float largest, smallest;
  u32 low, high;
  int warpIds[WARPS], bin, id, bad;
};

/** Larger for larger logits; the zeros are equal. */
__device__ __forceinline__ u32 keyOf(float x) {
  const u32 bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logitOf(u32 key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

/** The tokens that are kept: a prefix of the order. */
struct Prefix {
  u32 key;
  int id;
  __device__ __forceinline__ bool holds(u32 k, int i) const { return k > key || (k == key && i <= id); }
};

/** One row, read 16 bytes at a time. What lies beside it, and -infinity, is no token: such tokens have no mass. */
struct Row {
  const float4* quads;
  int shift, columns, numQuads;

  __device__ __forceinline__ Row(const float* logits, int count) {
    const u64 address = (u64)logits;
    quads = (const float4*)(address & ~15ull);
    shift = (int)(address & 15) >> 2;
    columns = count;
    numQuads = (shift + count + 3) >> 2;
  }
  __device__ __forceinline__ int numTiles() const { return (numQuads + 31) >> 5; }
  __device__ __forceinline__ float4 load(int q) const {
    const float none = __int_as_float(0xff800000);
    float4 v = q < numQuads ? quads[q] : make_float4(none, none, none, none);
    const int first = 4 * q - shift;
    if (first < 0 || first + 3 >= columns) {
      if (first < 0 || first >= columns) v.x = none;
      if (first + 1 < 0 || first + 1 >= columns) v.y = none;
      if (first + 2 < 0 || first + 2 >= columns) v.z = none;
      if (first + 3 >= columns) v.w = none;
    }
    return v;
  }
  /** body(q, logits of ids 4 q - shift and on) for every quad, by whole warps. */
  template <class Body> __device__ __forceinline__ void eachQuad(Body body) const {
    for (int base = 0; base < numQuads; base += UNROLL * THREADS) {
      float4 v[UNROLL];
#pragma unroll
      for (int u = 0; u < UNROLL; u++) v[u] = load(base + u * THREADS + threadIdx.x);
#pragma unroll
      for (int u = 0; u < UNROLL; u++)
        if (base + u * THREADS < numQuads) body(base + u * THREADS + (int)threadIdx.x, v[u]);
    }
  }
  /** body(logit, id) for every token. */
  template <class Body> __device__ __forceinline__ void each(Body body) const {
    eachQuad([&](int q, float4 v) {
      const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (x[e] > __int_as_float(0xff800000)) body(x[e], 4 * q - shift + e);
    });
  }
};

/** 2^t of t up to 0 as a whole number of 2^-BITS. The polynomial's own error is below 2^-46 of the result. */
template <int BITS> __device__ __forceinline__ u64 powerOfTwo(double t) {
  const double whole = rint(t), y = (t - whole) * 0.69314718055994530942;
  double p = 1.0 / 39916800;
  p = fma(p, y, 1.0 / 3628800);
  p = fma(p, y, 1.0 / 362880);
  p = fma(p, y, 1.0 / 40320);
  p = fma(p, y, 1.0 / 5040);
  p = fma(p, y, 1.0 / 720);
  p = fma(p, y, 1.0 / 120);
  p = fma(p, y, 1.0 / 24);
  p = fma(p, y, 1.0 / 6);
  p = fma(p, y, 0.5);
  p = fma(p, y, 1.0);
  p = fma(p, y, 1.0);
  return __double2ull_rn(p * __hiloint2double((1023 + BITS + (int)whole) << 20, 0));
}

/** What of a token is kept and how likely it is. */
struct Masses {
  double largest, rate;
  u64 least; // by min-p; 1 at least
  float largestF, rateF;

  __device__ __forceinline__ u64 of(float x) const {
    if ((x - largestF) * rateF < -43.0f) return 0;
    const u64 mass = powerOfTwo<MASS_BITS>(((double)x - largest) * rate);
    return mass < least ? 0 : mass;
  }
};

/** Exclusive sums over the block's threads, in their order; `total` gets the sum of all. */
__device__ u64 blockScan(u64 value, u64* warpSums, u64& total) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  u64 sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const u64 other = __shfl_up_sync(ALL, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == 31) warpSums[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    const u64 own = warpSums[lane];
    u64 running = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const u64 other = __shfl_up_sync(ALL, running, step);
      if (lane >= step) running += other;
    }
    warpSums[lane] = running - own;
    if (lane == 31) warpSums[WARPS] = running;
  }
  __syncthreads();
  total = warpSums[WARPS];
  return warpSums[warp] + sum - value;
}

/** The largest logit and its lowest id, the smallest, and whether some logit is no number: into `s`. */
__device__ int extremes(const Row& row, Shared& s) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const float infinity = __int_as_float(0x7f800000);
  float largest = -infinity, smallest = infinity;
  int id = 0x7fffffff, bad = 0;
  row.eachQuad([&](int q, float4 v) {
    const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int e = 0; e < 4; e++) {
      bad |= !(x[e] < infinity);
      if (x[e] > largest) {
        largest = x[e];
        id = 4 * q - row.shift + e;
      }
      smallest = fminf(smallest, x[e] > -infinity ? x[e] : infinity);
    }
  });
  const u32 mine = keyOf(largest);
  const u32 warpLargest = __reduce_max_sync(ALL, mine), warpSmallest = __reduce_min_sync(ALL, keyOf(smallest));
  const int warpId = __reduce_min_sync(ALL, mine == warpLargest ? id : 0x7fffffff);
  bad = __any_sync(ALL, bad);
  if (lane == 0) {
    s.histogram[0][warp] = warpLargest;
    s.histogram[1][warp] = warpSmallest;
    s.histogram[2][warp] = bad;
    s.warpIds[warp] = warpId;
  }
  __syncthreads();
  if (warp == 0) {
    const u32 blockLargest = __reduce_max_sync(ALL, s.histogram[0][lane]), blockSmallest = __reduce_min_sync(ALL, s.histogram[1][lane]);
    const int blockId = __reduce_min_sync(ALL, s.histogram[0][lane] == blockLargest ? s.warpIds[lane] : 0x7fffffff);
    bad = __any_sync(ALL, s.histogram[2][lane]);
    if (lane == 0) {
      s.largest = logitOf(blockLargest);
      s.smallest = logitOf(blockSmallest);
      s.id = blockId;
      s.bad = bad || blockId == 0x7fffffff;
    }
  }
  __syncthreads();
  return s.bad ? -1 : s.id;
}

/** The weights of four tokens. */
template <class Weight> __device__ __forceinline__ u64 quadWeight(const Row& row, int q, float4 v, Weight weight) {
  const float x[4] = {v.x, v.y, v.z, v.w};
  u64 sum = 0;
#pragma unroll
  for (int e = 0; e < 4; e++)
    if (x[e] > __int_as_float(0xff800000)) sum += weight(x[e], 4 * q - row.shift + e);
  return sum;
}

/** Weights of the row's tiles as running sums in front of each, into s.tiles. Returns the sum of all. */
template <class Weight> __device__ u64 sumTiles(const Row& row, Shared& s, Weight weight) {
  const int lane = threadIdx.x & 31, numTiles = row.numTiles();
  __syncthreads();
  row.eachQuad([&](int q, float4 v) {
    u64 sum = quadWeight(row, q, v, weight);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(ALL, sum, step);
    if (lane == 0 && (q >> 5) < numTiles) s.tiles[q >> 5] = sum;
  });
  __syncthreads();
  constexpr int EACH = (MAX_TILES + THREADS - 1) / THREADS;
  const int first = threadIdx.x * EACH;
  u64 mine[EACH], sum = 0, total;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    mine[i] = first + i < numTiles ? s.tiles[first + i] : 0;
    sum += mine[i];
  }
  u64 before = blockScan(sum, s.warpSums, total);
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    if (first + i < numTiles) s.tiles[first + i] = before;
    before += mine[i];
  }
  __syncthreads();
  return total;
}

/** The first id at which the running sum of weights, which `sumTiles` has added up, passes `target`, which is below their sum. */
template <class Weight> __device__ int findToken(const Row& row, Shared& s, u64 target, Weight weight) {
  const int lane = threadIdx.x & 31;
  if (threadIdx.x < 32) {
    int low = 0, high = row.numTiles() - 1; // the last tile whose sum in front is at most the target
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (s.tiles[middle] <= target) low = middle;
      else high = middle - 1;
    }
    const int q = 32 * low + lane;
    const float4 v = row.load(q);
    const u64 own = quadWeight(row, q, v, weight);
    u64 sum = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const u64 other = __shfl_up_sync(ALL, sum, step);
      if (lane >= step) sum += other;
    }
    u64 running = s.tiles[low] + sum - own;
    if (running <= target && target < running + own) {
      const float x[4] = {v.x, v.y, v.z, v.w};
      int found = -1;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int id = 4 * q - row.shift + e;
        if (x[e] > __int_as_float(0xff800000)) running += weight(x[e], id);
        if (found < 0 && running > target) found = id;
      }
      s.id = found;
    }
  }
  __syncthreads();
  return s.id;
}

/** Adds up weights by bin: weight(logit, id, bin) says how much and where, 0 adds nothing. MASS: weights are masses, else at most 1. */
template <bool MASS, class Weight> __device__ void fillHistogram(const Row& row, Shared& s, Weight weight) {
  __syncthreads();
  for (int i = threadIdx.x; i < (MASS ? 3 : 1) * BINS; i += THREADS) (&s.histogram[0][0])[i] = 0;
  __syncthreads();
  row.each([&](float x, int id) {
    u32 bin;
    const u64 w = weight(x, id, bin);
    if (w == 0) return;
    if (!MASS) {
      atomicAdd(&s.histogram[0][bin], 1u);
      return;
    }
    const u32 low = w & ((1u << PART_BITS) - 1), middle = (w >> PART_BITS) & ((1u << PART_BITS) - 1), high = w >> (2 * PART_BITS);
    if (low) atomicAdd(&s.histogram[0][bin], low);
    if (middle) atomicAdd(&s.histogram[1][bin], middle);
    if (high) atomicAdd(&s.histogram[2][bin], high);
  });
  __syncthreads();
}

template <bool MASS> __device__ __forceinline__ u64 binOf(const Shared& s, int bin) {
  if (!MASS) return s.histogram[0][bin];
  return s.histogram[0][bin] + ((u64)s.histogram[1][bin] << PART_BITS) + ((u64)s.histogram[2][bin] << (2 * PART_BITS));
}

/** The bin in which the running sum, `before` in front of the first, reaches the target: into s.bin, s.before, s.inside. target(sum of all) is from 1 to that. Returns the target. */
template <bool MASS, class Target> __device__ u64 findBin(Shared& s, u64 before, Target target) {
  const int bin = 2 * threadIdx.x;
  const u64 a = binOf<MASS>(s, bin), b = binOf<MASS>(s, bin + 1);
  u64 total;
  const u64 sum = before + blockScan(a + b, s.warpSums, total), wanted = target(total);
  if (sum < wanted && wanted <= sum + a + b) {
    const bool first = wanted <= sum + a;
    s.bin = first ? bin : bin + 1;
    s.before = first ? sum : sum + a;
    s.inside = first ? a : b;
  }
  __syncthreads();
  return wanted;
}

/** The least key, or the greatest, from `lowest` to `highest` whose logit is in a bin; bins rise as logits fall. */
template <class Bin> __device__ __forceinline__ u32 edge(Bin bin, int wanted, bool least, u32 lowest, u32 highest) {
  u32 low = lowest, high = highest;
  while (low < high) {
    const u32 middle = low + (high - low + (least ? 0 : 1)) / 2;
    const int at = (int)bin(logitOf(middle));
    if (least ? at <= wanted : at >= wanted) (least ? high : low) = middle;
    else if (least) low = middle + 1;
    else high = middle - 1;
  }
  return low;
}

/**
 * The bin of equal width in logits that holds the border of the shortest prefix whose weight reaches target(sum of all weights), which is from 1 to that:
 * its keys into s.low and s.high, the weight in front of it and its own into s.before and s.inside. Returns the target.
 */
template <bool MASS, class Weight, class Target> __device__ u64 borderBin(const Row& row, Shared& s, Weight weight, Target target) {
  const float largest = s.largest, scale = (BINS - 1) / (s.largest - s.smallest);
  auto linear = [&](float x) { return min((u32)((largest - x) * scale), (u32)(BINS - 1)); };
  fillHistogram<MASS>(row, s, [&](float x, int id, u32& bin) {
    bin = linear(x);
    return (u64)weight(x, id);
  });
  const u64 wanted = findBin<MASS>(s, 0, target);
  if ((threadIdx.x & 31) == 0 && threadIdx.x < 64) {
    const u32 key = edge(linear, s.bin, threadIdx.x == 0, keyOf(s.smallest), keyOf(largest));
    if (threadIdx.x == 0) s.low = key;
    else s.high = key;
  }
  __syncthreads();
  return wanted;
}

/** The shortest prefix whose weight reaches `wanted`, from what `borderBin` has found. */
template <bool MASS, class Weight> __device__ Prefix borderInBin(const Row& row, Shared& s, Weight weight, u64 wanted) {
  u32 low = s.low, high = s.high;
  while (low < high) {
    const int shift = max(0, 32 - __clz(high - low) - BIN_BITS);
    fillHistogram<MASS>(row, s, [&](float x, int id, u32& bin) {
      const u32 key = keyOf(x);
      bin = (high - key) >> shift;
      return low <= key && key <= high ? (u64)weight(x, id) : 0;
    });
    findBin<MASS>(s, s.before, [&](u64) { return wanted; });
    const u64 from = (u64)s.bin << shift, to = from + (1u << shift) - 1;
    low = high - low < to ? low : high - (u32)to;
    high = high - (u32)from;
  }
  const u64 each = weight(logitOf(high), 0), needed = (wanted - s.before + each - 1) / each;
  if (needed * each >= s.inside) return {high, 0x7fffffff};
  // Of equal logits the lowest ids.
  sumTiles(row, s, [&](float x, int) { return (u64)(keyOf(x) == high); });
  return {high, findToken(row, s, needed - 1, [&](float x, int) { return (u64)(keyOf(x) == high); })};
}

/**
 * The shortest prefix whose weight reaches target(sum of all weights). weight(logit, id) of tokens with equal logits is equal, or 0 from some id on.
 */
template <bool MASS, class Weight, class Target> __device__ Prefix border(const Row& row, Shared& s, Weight weight, Target target) {
  return borderInBin<MASS>(row, s, weight, borderBin<MASS>(row, s, weight, target));
}

/** The token of a row, by its record of choices (backend.ts); -1 where the row is no distribution. All its reads of the row are done when it returns. */
__device__ __forceinline__ int choose(const Row& row, Shared& s, const int* record) {
  const double* choice = (const double*)record;
  const double temperature = choice[TEMPERATURE], topP = choice[TOP_P], minP = choice[MIN_P];
  const int topK = record[TOP_K];
  const int token = extremes(row, s);
  if (token < 0 || !(temperature > 0)) return token;
  Prefix kept = {0, 0x7fffffff};
  if (topK > 0 && topK < row.columns) kept = border<false>(row, s, [](float, int) { return 1; }, [&](u64 total) { return min((u64)topK, total); });
  Masses masses;
  masses.largestF = s.largest;
  masses.largest = s.largest;
  masses.rate = 1.44269504088896340736 / temperature;
  masses.rateF = (float)masses.rate;
  masses.least = max(1ull, (u64)ceil(minP * (double)WHOLE));
  auto massOf = [&](float x, int id) { return kept.holds(keyOf(x), id) ? masses.of(x) : 0; };
  if (topP < 1) {
    const Prefix shorter = border<true>(row, s, massOf, [&](u64 total) { return max(1ull, min((u64)ceil(topP * (double)total), total)); });
    if (shorter.key > kept.key || (shorter.key == kept.key && shorter.id < kept.id)) kept = shorter;
  }
  const u64 total = sumTiles(row, s, massOf), draw = (u64)(choice[UNIFORM] * 9007199254740992.0);
  // floor(uniform * total), exactly: uniform is a whole number of 2^-53.
  return findToken(row, s, (__umul64hi(draw, total) << 11) | (draw * total >> 53), massOf);
}

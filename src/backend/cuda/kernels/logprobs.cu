/**
 * Log-probabilities of rows of logits, by one block of threads a question: of one token, and of the likeliest.
 *
 * logSum = largest + log(sum of masses), a token's mass e^(logit - largest) being a whole number of 2^-52: their sum is exact in any order, so an answer
 * depends on the row alone, wherever it lies. A sum is off by 2^-53 a token and 2^-46 of itself at most, and is 1 or more: logSum by 2^-35 at most.
 *
 * The likeliest tokens are among those of the first bins of a histogram, which are few unless very many logits are equal or nearly so: then exactly
 * the likeliest are found first. Each finds its place among these by counting those that come before it.
 */
struct Params {
  const int* header;
  const float* logits;  // as in sample.cu
  const int* questions; // records of QUESTION_WORDS words (backend.ts, questionWord)
  const int* sampled;
  double* out;          // records of ANSWER_WORDS words (answerWord)
  int stride, columns;
};

constexpr int QUESTION_WORDS = 4, ROW = 0, TOKEN = 1, NUM_TOP = 2;
constexpr int MOST_TOP = 20;
constexpr int ANSWER_WORDS = 44, LOG_SUM = 0, LOGIT = 2, RANK = 3, TOP = 4; // the first is a double
constexpr int SUM_BITS = 52, PART = 32; // sums of a thread's masses are added up in two parts
constexpr int MOST_CANDIDATES = 256;
static_assert(WARPS <= BINS && MOST_CANDIDATES <= BINS && MOST_CANDIDATES <= THREADS, "candidates lie in a histogram that counts nothing, a thread each");

/** The sum over the block's threads. */
__device__ __forceinline__ u64 blockSum(u64 value, Shared& s) {
  u64 total;
  blockScan(value, s.warpSums, total);
  return total;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) NAME(logprobs)(const __grid_constant__ Params p) {
  __shared__ Shared s;
  __shared__ int numCandidates;
  waitForInputs();
  releaseDependents();
  if ((int)blockIdx.x >= p.header[HEADER_LOGITS]) return;
  const int* question = p.questions + blockIdx.x * QUESTION_WORDS;
  int* answer = (int*)p.out + blockIdx.x * ANSWER_WORDS;
  const int r = question[ROW], token = question[TOKEN] >= 0 ? question[TOKEN] : p.sampled[r], numTop = min(min(question[NUM_TOP], MOST_TOP), p.columns);
  const float* logits = p.logits + (u64)r * p.stride;
  const Row row(logits, p.columns);
  if (threadIdx.x == 0) numCandidates = 0;
  if (extremes(row, s) < 0 || token < 0) {
    if (threadIdx.x == 0) answer[RANK] = 0;
    return;
  }

  const float logit = logits[token], largestF = s.largest, rateF = 1.44269504f;
  const double largest = largestF, rate = 1.44269504088896340736;
  u64 sum = 0;
  u32 larger = 0;
  auto add = [&](float x, int) {
    larger += x > logit;
    if ((x - largestF) * rateF > -(SUM_BITS + 2)) sum += powerOfTwo<SUM_BITS>(((double)x - largest) * rate);
  };
  u64 wanted = 0;
  if (numTop <= 0) row.each(add);
  else
    wanted = borderBin<false>(row, s, [&](float x, int id) {
      add(x, id);
      return 1;
    }, [&](u64 total) { return min((u64)numTop, total); });
  const u64 high = blockSum(sum >> PART, s), low = blockSum(sum & ((1ull << PART) - 1), s), rank = 1 + blockSum(larger, s);
  if (threadIdx.x == 0) {
    *(double*)(answer + LOG_SUM) = largest + log(((double)high * (1ull << PART) + (double)low) / (1ull << SUM_BITS));
    *(float*)(answer + LOGIT) = logit;
    answer[RANK] = (int)rank;
  }
  if (numTop <= 0) return;

  Prefix likely = {s.low, 0x7fffffff};
  if (s.before + s.inside > MOST_CANDIDATES) likely = borderInBin<false>(row, s, [](float, int) { return 1; }, wanted);
  u32 *keys = s.histogram[1], *ids = s.histogram[2];
  row.each([&](float x, int id) {
    const u32 key = keyOf(x);
    if (!likely.holds(key, id)) return;
    const int at = atomicAdd(&numCandidates, 1);
    keys[at] = key;
    ids[at] = id;
  });
  __syncthreads();
  auto put = [&](int place, int id) {
    answer[TOP + 2 * place] = id;
    *(float*)(answer + TOP + 2 * place + 1) = logits[id];
  };
  const int candidates = numCandidates;
  if (threadIdx.x < candidates) {
    const u32 key = keys[threadIdx.x], id = ids[threadIdx.x];
    int place = 0;
    for (int c = 0; c < candidates; c++) place += keys[c] > key || (keys[c] == key && ids[c] < id);
    if (place < numTop) put(place, (int)id);
  }
  // Behind all tokens that there are come those of -infinity, by id: enough of the first numTop are such.
  const int lane = threadIdx.x & 31;
  if (wanted < numTop && threadIdx.x < 32) {
    const bool none = lane < numTop && logits[lane] == __int_as_float(0xff800000);
    const int place = (int)wanted + __popc(__ballot_sync(ALL, none) & ((1u << lane) - 1));
    if (none && place < numTop) put(place, lane);
  }
}

/**
 * A token for each row of logits, by one block of threads a row; and what the step before has sampled, as the input of this one.
 */
struct Params {
  const int* header;
  const float* logits;   // rows of `columns`, `stride` apart; read from the 16 bytes that hold a row's first to those that hold its last
  const double* choices; // records of CHOICE_WORDS words (backend.ts, choiceWord)
  int* out;
  int stride, columns;
};
struct FeedParams {
  const int* header;
  int* tokens;
  const int* sampled;
};

constexpr int HEADER_TOKENS = 0;

extern "C" __global__ void __launch_bounds__(THREADS, 1) NAME(sample)(const __grid_constant__ Params p) {
  __shared__ Shared s;
  waitForInputs();
  releaseDependents();
  const int r = blockIdx.x;
  const int* choice = (const int*)p.choices + r * CHOICE_WORDS;
  if ((r >= p.header[HEADER_LOGITS]) | (choice[SKIP] != 0)) return; // both at once: every block has a record
  const int token = choose(Row(p.logits + (u64)r * p.stride, p.columns), s, choice);
  if (threadIdx.x == 0) p.out[r] = token;
}

extern "C" __global__ void NAME(feedTokens)(const __grid_constant__ FeedParams p) {
  waitForInputs();
  releaseDependents();
  const int r = blockIdx.x * blockDim.x + threadIdx.x;
  if (r >= p.header[HEADER_TOKENS] || p.tokens[r] >= 0) return;
  p.tokens[r] = max(0, p.sampled[-1 - p.tokens[r]]);
}

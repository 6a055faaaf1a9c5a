/**
 * A token for each row of logits whose rules change some of them first, by one block of threads a record of rules.
 *
 * A changed logit is computed as the definition does it, operation by operation, in doubles rounded once. Where every token may be chosen the logits are
 * changed where they stand, what stood there is kept in `scratch`, and put back in the end. Where only those that have an edit may, their new logits are a
 * row of their own in `scratch`: as the edits stand in order of tokens, so does that row, and equal logits and the draw fall as in the whole one.
 */
struct Params {
  const int* header;
  float* logits;         // as in sample.cu
  const double* choices; // records of CHOICE_WORDS words (backend.ts, choiceWord)
  const double* rules;   // records of RULE_WORDS words (ruleWord)
  const double* edits;   // records of EDIT_WORDS words (editWord)
  float* scratch;        // a logit for each edit; read as a row of logits is
  int* out;
  int stride, columns;
};

constexpr int RULE_WORDS = 10, ROW = 0, FIRST_EDIT = 1, NUM_EDITS = 2, ONLY_EDITED = 3, REPETITION = 2, FREQUENCY = 3, PRESENCE = 4; // words, the last three doubles
constexpr int EDIT_WORDS = 4, TOKEN = 0, COUNT = 1, BIAS = 1;                                                                      // likewise the last

struct Penalties {
  double repetition, frequency, presence;
};

/** A token's new logit. */
__device__ __forceinline__ float editedLogit(float logit, const double* edit, const Penalties& by) {
  const double greatest = 3.4028234663852886e38, bias = edit[BIAS], infinity = __hiloint2double(0x7ff00000, 0);
  const int count = ((const int*)edit)[COUNT];
  double x = __dadd_rn((double)logit, bias);
  if (count >= 0) x = x > 0 ? __ddiv_rn(x, by.repetition) : __dmul_rn(x, by.repetition);
  if (count > 0) x = __dsub_rn(__dsub_rn(x, __dmul_rn(by.frequency, (double)count)), by.presence);
  if (fabsf(logit) < __int_as_float(0x7f800000)) x = x > greatest ? greatest : x < -greatest ? -greatest : x; // what is no number stays none
  return __double2float_rn(bias == -infinity ? bias : x);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) NAME(sampleRuled)(const __grid_constant__ Params p) {
  __shared__ Shared s;
  waitForInputs();
  releaseDependents();
  if ((int)blockIdx.x >= p.header[HEADER_LOGITS]) return;
  const int* rule = (const int*)p.rules + blockIdx.x * RULE_WORDS;
  const int r = rule[ROW], first = rule[FIRST_EDIT], numEdits = rule[NUM_EDITS];
  const bool onlyEdited = rule[ONLY_EDITED] != 0;
  const double* values = (const double*)rule;
  const Penalties penalties = {values[REPETITION], values[FREQUENCY], values[PRESENCE]};
  const double* edits = p.edits + (u64)first * (EDIT_WORDS / 2);
  float* logits = p.logits + (u64)r * p.stride;
  float* scratch = p.scratch + first;
  auto tokenOf = [&](int e) { return ((const int*)edits)[e * EDIT_WORDS + TOKEN]; };

  int token = extremes(Row(logits, p.columns), s);
  if (token >= 0) {
    for (int e = threadIdx.x; e < numEdits; e += THREADS) {
      float* at = logits + tokenOf(e);
      const float came = *at, edited = editedLogit(came, edits + e * (EDIT_WORDS / 2), penalties);
      scratch[e] = onlyEdited ? edited : came;
      if (!onlyEdited) *at = edited;
    }
    __syncthreads();
    const int found = choose(onlyEdited ? Row(scratch, numEdits) : Row(logits, p.columns), s, (const int*)p.choices + r * CHOICE_WORDS);
    token = found < 0 ? -2 : onlyEdited ? tokenOf(found) : found;
    if (!onlyEdited)
      for (int e = threadIdx.x; e < numEdits; e += THREADS) logits[tokenOf(e)] = scratch[e];
  }
  if (threadIdx.x == 0) p.out[r] = token;
}

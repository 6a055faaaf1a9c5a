/**
 * The contract of a place to compute. A backend is one folder and one row in registry.ts.
 *
 * A model's forward pass is plain code over `ops`. Inside `record` the calls are written down, not run; the `Program` is
 * replayed with fresh inputs. Sizes are symbolic: a kernel reads how many rows there are from the `BatchInputs` header when
 * it runs, so one Program serves any batch within its capacity. Commands run in the order given; only `read` waits.
 */
import type { QuantizedDType } from "./quantized.ts";
import type { AttentionPlan, KvFormat } from "../ir/plan.ts";

/** Memory of the backend. `offset` and `bytes` count bytes; a slice shares its parent's memory. */
export interface Buffer {
  readonly bytes: number;
  slice(offset: number, bytes: number): Buffer;
}

/**
 * What a buffer is for, where it may lie apart from the others (the wasm backend has several memories). "weights": a `Weight`'s data, of a
 * matrix that `linear` or `embed` reads. "kvCache": keys and values; those of one layer are slices of one buffer.
 */
export type BufferUse = "weights" | "kvCache";

/**
 * A matrix of weights [rows, columns]: f32, bf16 and f16 row-major; quantised ones as `Backend.writeRows` lays them out, in `quantizedBytes` bytes
 * (quantized.ts).
 */
export interface Weight {
  readonly data: Buffer;
  readonly dtype: WeightDType;
  readonly rows: number;
  readonly columns: number;
}

export type WeightDType = "f32" | "bf16" | "f16" | QuantizedDType;

/**
 * A matrix of activations. `rows` says which count of the step's header bounds it. f32 where nothing is said, bf16 or f16, `stride` in elements;
 * "int8": rows of blocks (quantized.ts), `stride` in bytes. Which a device takes where: `Caps.activationBits`.
 */
export interface Activation {
  readonly data: Buffer;
  readonly dtype?: "f32" | "bf16" | "f16" | "int8";
  readonly rows: RowCount;
  readonly columns: number;
  readonly stride: number;
}

/** Which count of the header a matrix has as rows: the step's tokens, or the tokens whose logits are wanted. */
export type RowCount = "tokens" | "logits";

/** i32 words of the header. */
export const headerWord = { numTokens: 0, numSequences: 1, numLogits: 2, words: 4 } as const;

/** What one step feeds a Program: the only data that changes between replays. All i32. */
export interface BatchInputs {
  /** [headerWord.words] */
  readonly header: Buffer;
  /** [maxTokens] token ids */
  readonly tokens: Buffer;
  /** [maxTokens] logical position of each token in its sequence, from 0 */
  readonly positions: Buffer;
  /** [maxTokens] where the token's K and V go: page * pageSize + offset in page */
  readonly slots: Buffer;
  /** [maxSequences, maxPagesPerSequence] the block table: page ids of each sequence, in order */
  readonly blockTable: Buffer;
  /** [maxNumLogits] rows of the step whose logits are wanted */
  readonly logitRows: Buffer;
  readonly maxPagesPerSequence: number;
}

/** What `ropeAndCache` can write: f32 as it is, the others rounded to nearest, ties to even. */
export type KvCacheFormat = Extract<KvFormat, "f32" | "bf16" | "f16">;

/**
 * K or V of one layer: pages of `pageSize` tokens, a head's tokens of a page one behind the other, as decode reads them. Element
 * (page, token, head, d) stands at ((page * numHeads + head) * pageSize + token) * headDim + d.
 */
export interface KvCache {
  readonly data: Buffer;
  readonly format: KvCacheFormat;
  readonly pageSize: number;
  readonly numHeads: number;
  readonly headDim: number;
}

/**
 * Where rows of queries, keys, values or outputs lie, strides in elements: sequence * sequenceStride + row * rowStride + head * headStride.
 * Of keys and values "sequence" is a page and "row" a token in it.
 */
export interface Layout {
  readonly data: Buffer;
  readonly sequenceStride: number;
  readonly rowStride: number;
  readonly headStride: number;
}

/** The values a plan's captures take in this call, in the order of `plan.captures`. */
export type CaptureValue =
  | { readonly kind: "uniform"; readonly value: number }
  /** f32 or i32 elements, row-major; `shape` in elements. */
  | { readonly kind: "table"; readonly data: Buffer; readonly shape: readonly number[] };

/** One attention launch. Rows are packed: a work item names its rows, its sequence and its key blocks (ir/plan.ts). */
export interface AttentionCall {
  readonly kernel: AttentionKernel;
  readonly captures: readonly CaptureValue[];
  /** Query rows: sequence * sequenceStride + row * rowStride + head * headStride. A packed batch has sequenceStride 0. */
  readonly query: Layout;
  readonly out: Layout;
  /** Keys and values: page * sequenceStride + token * rowStride + head * headStride, page looked up in `blockTable`. In elements of the plan's formats. */
  readonly key: Layout;
  readonly value: Layout;
  /** Tokens of one page, any number from 1. */
  readonly pageSize: number;
  readonly blockTable: Buffer;
  readonly maxPagesPerSequence: number;
  /** The work list (ir/plan.ts), i32. */
  readonly work: Buffer;
  /** Log-sum-exp of each row and head, natural log; -Infinity for a row with no key. Without meaning, and not written, under a weightMod. */
  readonly lse?: RowStatistic;
  /** The largest score of each row and head after mods, laid out like lse; -Infinity for a row with no key. */
  readonly maxScore?: RowStatistic;
  /** f32 [numQueryHeads], where the plan's denominator is "sink". */
  readonly sink?: Buffer;
  /** f32 factors of int8 and fp8 keys and values, one for each (page, token, head); a stride of 0 shares one. */
  readonly keyScale?: Layout;
  readonly valueScale?: Layout;
}

/** A number for each row and query head: f32 at sequence * sequenceStride + row * numQueryHeads + head, in elements. */
export interface RowStatistic {
  readonly data: Buffer;
  readonly sequenceStride: number;
}

/** A compiled attention kernel. Opaque to all but its backend. */
export interface AttentionKernel {
  readonly plan: AttentionPlan;
  /** The generated code, as readable text. */
  readonly source: string;
}

export type ActivationFunction = "silu" | "geluTanh" | "gelu" | "relu";

/**
 * The fixed operations. Each is defined by the plain loop in backend/reference/ops.ts: computed in f32 or better, and rounded once where it is
 * written to 16 bits. Vectors (norms, biases) are f32; x and out may be the same buffer only where said.
 */
export interface Ops extends SamplingOps {
  /** out[t, :] = table[tokens[t], :] * scale */
  embed(o: { out: Activation; table: Weight; batch: BatchInputs; scale: number }): void;
  /** out[r, :] = (residual[r, :] +) x[r, :] * weight / sqrt(mean(x[r, :]^2) + epsilon). `residual` may be `out`; weight: f32 [columns]. `out` may be int8 where there is no residual. */
  rmsNorm(o: { out: Activation; x: Activation; weight: Buffer; epsilon: number; residual?: Activation; batch: BatchInputs }): void;
  /** out[r, :] = x[r, :] rounded to int8 blocks. */
  quantize(o: { out: Activation; x: Activation; batch: BatchInputs }): void;
  /** out[r, n] = sum_k x[r, k] weight[n, k] (+ bias[n]) (+ residual[r, n]). x is int8 where the weight is quantised. `residual` may be `out`. The order of the sum: docs/backends.md. */
  linear(o: { out: Activation; x: Activation; weight: Weight; bias?: Buffer; residual?: Activation; batch: BatchInputs }): void;
  /**
   * In place on the packed rows of `qkv` = [q heads | k heads | v heads]: per-head RMS norm of q and k where weights are given,
   * rotation by the token's position, then K and V are written to the cache at the token's slot.
   * Pairs (i, i + rotaryDim/2) of the first rotaryDim elements rotate; `rotary` is [maxPositions, rotaryDim/2, 2] of (cos, sin), f32.
   */
  ropeAndCache(o: {
    qkv: Activation; numQueryHeads: number; key: KvCache; value: KvCache; rotary: Buffer; rotaryDim: number;
    qNorm?: Buffer; kNorm?: Buffer; epsilon: number; batch: BatchInputs;
  }): void;
  attention(o: AttentionCall): void;
  /** out[r, i] = f(gateUp[r, i]) * gateUp[r, columns + i], columns being out's. `out` may be int8. */
  gatedActivation(o: { out: Activation; gateUp: Activation; activation: ActivationFunction; batch: BatchInputs }): void;
  /** out[i, :] = x[logitRows[i], :] */
  gatherRows(o: { out: Activation; x: Activation; batch: BatchInputs }): void;
  /** x = cap * tanh(x / cap), in place. */
  softCap(o: { x: Activation; cap: number; batch: BatchInputs }): void;
}

/**
 * Words of one record of choices, how the token of one row of logits is chosen; numbers are doubles of two words. temperature 0: the likeliest. topK: i32,
 * 0 keeps all. uniform: from 0 to below 1. skip: not 0 where something else chooses: `sampleRuled`, or the host.
 */
export const choiceWord = { temperature: 0, topP: 2, minP: 4, uniform: 6, topK: 8, skip: 9, words: 10 } as const;

/**
 * Words of one record of rules, what is changed in a row of logits before its token is chosen: `numEdits` edits from `firstEdit` on. onlyEdited: not 0
 * where no other token may be chosen; the edits then stand in order of tokens. repetition, frequency, presence: penalties, doubles.
 */
export const ruleWord = { row: 0, firstEdit: 1, numEdits: 2, onlyEdited: 3, repetition: 4, frequency: 6, presence: 8, words: 10 } as const;
/** Words of one edit. count: how often the token stands in the output, 0 where only the prompt has it, -1 where penalties leave it alone. bias: a double; -Infinity forbids the token. */
export const editWord = { token: 0, count: 1, bias: 2, words: 4 } as const;

/** Words of one question for log-probabilities: of `token`, or if that is -1 of the token that was sampled from the row, and of the `numTop` likeliest. */
export const questionWord = { row: 0, token: 1, numTop: 2, words: 4 } as const;
/** Most of the likeliest tokens that a question asks for. */
export const mostTop = 20;
/**
 * Words of an answer. logSum: log(sum exp(logit)), natural, a double. logit: the token's, f32. rank: i32, 1 + how many tokens have a larger logit; 0 where the
 * logits are no distribution, or no token was sampled: the rest then means nothing. top: [mostTop] pairs of a token and its logit.
 */
export const answerWord = { logSum: 0, logit: 2, rank: 3, top: 4, words: 4 + 2 * mostTop } as const;

/** What becomes of logits, where they are. Each operation is defined by the plain loop in backend/reference/sample.ts. */
export interface SamplingOps {
  /**
   * out[i] = the token of row i of the logits, i32; -1 where they are no distribution: one is NaN or +Infinity, or all are -Infinity. `choices`: a record
   * (`choiceWord`) for each row. Tokens are ordered by logit, equal ones by lowest id; top-k, min-p and top-p each keep a prefix of that order; of what
   * all keep, the token is drawn at which the running sum of exp((logit - largest) / temperature), in order of ids, passes uniform times the whole sum.
   */
  sample(o: { logits: Activation; choices: Buffer; out: Buffer; batch: BatchInputs }): void;
  /**
   * out[row] = the token of a row whose logits are changed first, chosen by its record of `choices`; -1 where the logits that came were no distribution, -2
   * where only those that are left are none. `rules` (`ruleWord`): as many records as the header counts logits, each of another row; `edits` (`editWord`): no token twice
   * for a row. An edit's new logit is, in doubles and rounded once: logit + bias; with a count, if that is above 0 divided by the repetition penalty, else
   * multiplied; with a count above 0 less frequency * count, less presence. What was finite stays within f32, but where bias is -Infinity. The logits are as they were in the end.
   * `scratch`: f32, one for each edit.
   */
  sampleRuled(o: { logits: Activation; choices: Buffer; rules: Buffer; edits: Buffer; scratch: Buffer; out: Buffer; batch: Pick<BatchInputs, "header"> }): void;
  /** out[i] = the answer (`answerWord`) to question i (`questionWord`) of as many as the header counts logits. The order of the sum is the row's own. */
  logprobs(o: { logits: Activation; questions: Buffer; sampled: Buffer; out: Buffer; batch: Pick<BatchInputs, "header"> }): void;
  /**
   * tokens[r] = sampled[-1 - tokens[r]] where tokens[r] < 0, in place: what the step before has sampled is this one's input. Below 0 in `sampled` becomes token
   * 0, whose row nobody wants. Only where the device runs ahead (`Caps.runsAhead`).
   */
  feedTokens?(o: { sampled: Buffer; batch: BatchInputs }): void;
}

/** How large a step is: what the header holds too, for a backend that chooses its launches by it before they run. */
export interface StepSize {
  readonly numTokens: number;
  readonly numSequences: number;
  readonly numLogits: number;
}

/** A recorded forward pass. */
export interface Program {
  /** Starts a replay with what the inputs hold now; `step` says what the header does. A failure is thrown by the next `read`. */
  run(step: StepSize): void;
}

/** What a device can do and does best, known without opening it (caps.ts). */
export interface Caps {
  /** What messages call it. */
  readonly device: string;
  /** Types of the matrices that `embed` and `linear` take. */
  readonly weightDTypes: readonly WeightDType[];
  /**
   * 32: what lies between operations is f32, and int8 where it meets a quantised weight; queries of attention are f32. 16: what is multiplied with a
   * weight, and qkv, attended and gateUp, are of the weight's type, bf16 or f16; queries and outputs of attention are bf16 or f16. hidden,
   * projected, lastHidden and logits are f32 on every device.
   */
  readonly activationBits: 32 | 16;
  /** Whether commands are carried out while the host goes on: the next step is then started before this one's tokens have come, with `feedTokens`. */
  readonly runsAhead: boolean;
  /** Whether an engine on it runs in a process of its own, as its driver may end that; else in a thread. */
  readonly ownProcess: boolean;
  /** Formats of the KV cache: "any" that `ropeAndCache` can write, or only the type of the "activations". */
  readonly kvFormats: "any" | "activations";
  /** Query rows of a work item and keys of a block that its attention kernels do well with. */
  readonly tiles: { readonly queryTile: number; readonly kvTile: number };
  /** Limits of an engine where nobody says otherwise. */
  readonly defaults: {
    /** Tokens of a page of the KV cache. */
    readonly pageSize: number;
    readonly maxNumBatchedTokens: number;
    readonly maxNumSeqs: number;
    /** Of the memory that is available, the part that the KV cache may take. */
    readonly kvCacheShare: number;
  };
}

export interface Backend {
  readonly name: "reference" | "wasm" | "cuda" | "webgpu";
  readonly caps: Caps;
  /** What it is running on, for people: threads, SIMD, device name. */
  readonly description: string;
  readonly ops: Ops;
  /**
   * Zeroed memory, aligned to 64 bytes. Memory taken for a `use` may not be used otherwise; take it after what has none.
   * @throws UsageError when there is no room, naming how much was asked for and is left.
   */
  alloc(bytes: number, use?: BufferUse): Buffer;
  free(buffer: Buffer): void;
  /** Bytes that `alloc` can still give, where the backend has memory of its own (a GPU). Undefined where it takes the process's. */
  availableBytes?(): number;
  /**
   * Words of shared memory that change with every piece of work any thread takes up, whatever the step's length: while a program runs and they stand
   * still, it is stuck. Not all backends have such.
   */
  readonly pulse?: readonly Int32Array[];
  /** Whether commands wait for kernels that are being compiled, where that may take its time. */
  readonly preparing?: boolean;
  /** Bytes of memory as the backend's own, where it has such (wasm): for loading files in place. Undefined elsewhere. */
  view(buffer: Buffer): Uint8Array | undefined;
  write(to: Buffer, offset: number, data: Uint8Array): void;
  /**
   * Writes rows of a quantised weight from `firstRow` on: packed blocks as quantized.ts says, row after row, or numbers that are rounded to such
   * on the way, whose type is named. `rows` is free again when the promise resolves; it may be a `view`.
   * @throws UsageError for a scale it can not hold, RangeError for numbers that are not finite or beyond f16
   */
  writeRows(weight: Weight, firstRow: number, rows: Uint8Array, type?: "F32" | "BF16" | "F16"): Promise<void>;
  /**
   * Waits for all commands so far, and for none that come later. The bytes are valid until the next command; where the device runs ahead they are the
   * caller's own, so that commands may follow before they have come.
   */
  read(from: Buffer, offset: number, bytes: number): Promise<Uint8Array>;
  compile(plan: AttentionPlan): Promise<AttentionKernel>;
  /** Runs `body`, writing down the ops it calls instead of running them. */
  record(body: () => void): Program;
  /** Stops threads and frees memory. The backend can not be used afterwards. */
  close(): Promise<void>;
}

/**
 * How large the engine may be: defaults and bounds of its limits, chosen before anything is loaded from the exact plan of
 * the model's memory (model/memory.ts).
 *
 *                         cpu    cuda
 *   blockSize              16      64   tokens
 *   maxNumBatchedTokens   512    8192   or maxNumSeqs where that is more
 *   maxNumSeqs             32     256   or maxNumBatchedTokens where that is less
 *   maxModelLen           the model's own context, or what the KV cache holds where that is less (where pages expire a sequence may be longer than that)
 *   KV cache              what maxNumSeqs sequences of maxModelLen need, but no more than a quarter of the memory available (on cuda all of it)
 *                         or 512 MiB, whichever is more (and one whole sequence where maxModelLen was asked for)
 *
 * Whatever is asked for by name is kept or refused with what would fit, never changed. Knows no model and no machine: it is
 * handed the plan and how many bytes there are.
 */
import type { Caps } from "../backend/backend.ts";
import { UsageError } from "../core/errors.ts";
import { maxPositions } from "../ir/plan.ts";
import { formatBytes } from "../model/memory.ts";
import type { EngineLimits } from "./engine.ts";

export interface LimitOptions {
  /** Most tokens of one sequence, prompt and output together. */
  readonly maxModelLen?: number;
  /** Most sequences that run at once. */
  readonly maxNumSeqs?: number;
  /** Most tokens of one step. */
  readonly maxNumBatchedTokens?: number;
  /** Tokens of one page of the KV cache, 1 to 256. */
  readonly blockSize?: number;
  /** Bytes of the KV cache. */
  readonly kvCacheBytes?: number;
}

/** What a model with these limits takes. */
export interface MemoryNeeds {
  readonly kvBytes: number;
  readonly totalBytes: number;
}

export interface Room {
  /** The model's own context: max_position_embeddings. */
  readonly maxPositions: number;
  /** Bytes that the model may take in all. */
  readonly availableBytes: number;
  /** Of the device. */
  readonly defaults: Caps["defaults"];
  readonly plan: (limits: EngineLimits) => MemoryNeeds;
  /** Rows of logits that a step of so many sequences may want, where these are more than one for each. */
  readonly logitsOf?: (maxNumSeqs: number) => number;
  /** Most pages that a sequence of maxModelLen tokens holds at once, where these are fewer than it fills. */
  readonly mostHeld?: (limits: EngineLimits) => number;
}

const defaultPoolBytes = 512 * 2 ** 20;
/** A token to read and one to write. */
const minModelLen = 2;

const flags: Readonly<Record<keyof LimitOptions, readonly [flag: string, min: number, max: number]>> = {
  maxModelLen: ["--max-model-len", minModelLen, maxPositions],
  maxNumSeqs: ["--max-num-seqs", 1, 65_536],
  // A launch on a GPU counts rows in 16 bits.
  maxNumBatchedTokens: ["--max-num-batched-tokens", 1, 65535],
  blockSize: ["--block-size", 1, 256],
  kvCacheBytes: ["--kv-cache-memory-bytes", 1, Number.MAX_SAFE_INTEGER],
};

/** The limits to load with. @throws UsageError that says what would fit. */
export function chooseLimits(options: LimitOptions, { maxPositions, availableBytes, defaults, plan, logitsOf, mostHeld }: Room): EngineLimits {
  for (const [name, [flag, min, max]] of Object.entries(flags)) {
    const value = options[name as keyof LimitOptions];
    if (value !== undefined && !(Number.isInteger(value) && value >= min && value <= max)) {
      throw new UsageError(`${name} (${flag}) is ${value}; it must be an integer from ${min} to ${max}`);
    }
  }
  const pageSize = options.blockSize ?? defaults.pageSize;
  const maxNumBatchedTokens = options.maxNumBatchedTokens ?? Math.max(defaults.maxNumBatchedTokens, options.maxNumSeqs ?? 0);
  const maxNumSeqs = options.maxNumSeqs ?? Math.min(defaults.maxNumSeqs, maxNumBatchedTokens);
  if (maxNumSeqs > maxNumBatchedTokens) {
    throw new UsageError(
      `maxNumSeqs (--max-num-seqs) is ${maxNumSeqs} and maxNumBatchedTokens (--max-num-batched-tokens) ${maxNumBatchedTokens}; ` +
      `every running sequence needs a token of each step, so pass at most ${maxNumBatchedTokens} or at least ${maxNumSeqs}`,
    );
  }
  const asked = options.maxModelLen;
  if (asked !== undefined && asked > maxPositions) {
    throw new UsageError(`maxModelLen (--max-model-len) is ${asked}; the model has ${maxPositions} positions, so pass at most that`);
  }

  const wanted = asked ?? maxPositions;
  // No row has two logits.
  const maxNumLogits = logitsOf && Math.min(logitsOf(maxNumSeqs), maxNumBatchedTokens);
  const at = (maxModelLen: number, numPages: number): EngineLimits =>
    ({ maxModelLen, maxNumSeqs, maxNumBatchedTokens, pageSize, numPages, ...(maxNumLogits !== undefined && { maxNumLogits }) });
  const pagesOf = (tokens: number): number => Math.ceil(tokens / pageSize);
  const one = plan(at(wanted, pagesOf(wanted)));
  const restBytes = one.totalBytes - one.kvBytes;
  const pageBytes = (plan(at(wanted, pagesOf(wanted) + 1024)).kvBytes - one.kvBytes) / 1024;
  const roomBytes = availableBytes - restBytes;
  if (roomBytes < pageBytes) {
    throw new UsageError(
      `the model takes ${formatBytes(restBytes)} without any KV cache, and ${formatBytes(availableBytes)} is available; use a smaller model, ` +
      `a lower --max-num-batched-tokens (now ${maxNumBatchedTokens}) or a lower --max-num-seqs (now ${maxNumSeqs})`,
    );
  }

  const share = Math.max(defaultPoolBytes, defaults.kvCacheShare * availableBytes);
  const enough = maxNumSeqs * pagesOf(wanted);
  const needed = mostHeld?.(at(wanted, pagesOf(wanted))) ?? pagesOf(wanted);
  const least = asked === undefined ? 0 : needed;
  const poolPages = options.kvCacheBytes !== undefined
    ? Math.floor(options.kvCacheBytes / pageBytes)
    : Math.min(enough, Math.max(Math.floor(share / pageBytes), least));
  const roomPages = Math.floor(roomBytes / pageBytes);
  if (options.kvCacheBytes !== undefined && poolPages > roomPages) {
    throw new UsageError(
      `kvCacheBytes (--kv-cache-memory-bytes) is ${options.kvCacheBytes} (${formatBytes(options.kvCacheBytes)}); ` +
      `beside the model's ${formatBytes(restBytes)} only ${formatBytes(roomBytes)} is available`,
    );
  }
  let numPages = Math.min(poolPages, roomPages);
  const fitting = (): EngineLimits => at(numPages >= needed ? wanted : Math.min(wanted, numPages * pageSize), numPages);
  // The plan rounds its buffers up; whatever that adds comes off the pool.
  while (numPages > 1 && plan(fitting()).totalBytes > availableBytes) numPages--;

  const holds = numPages >= needed ? wanted : numPages * pageSize;
  if (holds < (asked ?? minModelLen)) {
    const from = options.kvCacheBytes !== undefined
      ? `the KV cache is ${formatBytes(options.kvCacheBytes)}`
      : `${formatBytes(availableBytes)} is available and the model takes ${formatBytes(restBytes)} of it`;
    const each = Math.floor(holds / maxNumSeqs);
    const remedy = holds < minModelLen
      ? "give it more memory (--kv-cache-memory-bytes)"
      : `pass --max-model-len ${holds} or less for one sequence at a time${each < minModelLen ? "" : `, ${each} or less for ${maxNumSeqs}`}`;
    throw new UsageError(
      `maxModelLen (--max-model-len) ${wanted} needs a KV cache of ${formatBytes(needed * pageBytes)}, but ${from}, ` +
      `which leaves room for ${holds} tokens: ${remedy}`,
    );
  }
  return fitting();
}

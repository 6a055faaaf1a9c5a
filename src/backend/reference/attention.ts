/**
 * The definition of one attention launch. For every work item, head and row, over the keys of its runs:
 *
 *   s[kv] = scoreMod(scale * q.k)      a key that the mask (in partial blocks) or -Infinity removes has no part
 *   out   = sum softmax(s)[kv] * v[kv]       lse = log sum e^s[kv]
 *
 * Mods are evaluated as `ir/interpret.ts` defines them; dots, softmax and sums are in double. A row with no key is 0, its lse -Infinity.
 */
import { invariant } from "../../core/errors.ts";
import { type CaptureEnv, type Env, evaluator } from "../../ir/interpret.ts";
import { type AttentionPlan, runWords, workHeaderWords, workItem } from "../../ir/plan.ts";
import type { AttentionCall, Layout } from "../backend.ts";
import { f32Of, i32Of } from "./memory.ts";

/** What a kernel of this backend shows as its source. */
export function describe(plan: AttentionPlan): string {
  return `reference loops for ${plan.key}`;
}

/** The call's captures by name, as the interpreter reads them. */
function captureEnv({ kernel, captures }: AttentionCall): CaptureEnv {
  const uniforms: Record<string, number> = {};
  const tables: Record<string, CaptureEnv["tables"][string]> = {};
  kernel.plan.captures.forEach((slot, i) => {
    const value = captures[i];
    invariant(value?.kind === slot.kind, `capture ${slot.name} is a ${slot.kind}, but the call gives ${value?.kind}`);
    if (value.kind === "uniform") uniforms[slot.name] = value.value;
    else tables[slot.name] = { data: slot.type === "f32" ? f32Of(value.data) : i32Of(value.data), shape: value.shape };
  });
  return { uniforms, tables };
}

/** The keys an item's runs name, ascending, and whether the mask decides them. */
function* keysOf(work: Int32Array, item: number, kvTile: number): Generator<{ readonly kv: number; readonly partial: boolean }> {
  const kvLength = work[item + workItem.kvLength]!;
  for (let r = 0; r < work[item + workItem.numRuns]!; r++) {
    const run = work[1]! + runWords * (work[item + workItem.firstRun]! + r);
    const firstKey = work[run]! * kvTile;
    const end = Math.min(firstKey + (work[run + 1]! >> 1) * kvTile, kvLength);
    const partial = (work[run + 1]! & 1) === 1;
    for (let kv = firstKey; kv < end; kv++) yield { kv, partial };
  }
}

export function attend(call: AttentionCall): void {
  const { plan } = call.kernel;
  const { headDimQk, headDimV, numQueryHeads, numKvHeads } = plan;
  const work = i32Of(call.work);
  const blockTable = i32Of(call.blockTable);
  const scoreMod = evaluator(plan.scoreMod);
  const maskMod = plan.maskMod && evaluator(plan.maskMod);
  const env: { -readonly [K in keyof Env]: Env[K] } = { ...captureEnv(call), b: 0, h: 0, q: 0, kv: 0, score: 0 };

  const rowAt = (layout: Layout, data: Float32Array, outer: number, row: number, head: number, length: number): Float32Array => {
    const at = outer * layout.sequenceStride + row * layout.rowStride + head * layout.headStride;
    invariant(at >= 0 && at + length <= data.length, `row ${row} of head ${head} is outside a buffer of ${layout.data.bytes} bytes`);
    return data.subarray(at, at + length);
  };
  const queries = f32Of(call.query.data), outputs = f32Of(call.out.data), keys = f32Of(call.key.data), values = f32Of(call.value.data);
  const lse = call.lse && f32Of(call.lse.data);

  for (let i = 0; i < work[0]!; i++) {
    const item = workHeaderWords + i * workItem.words;
    const sequence = work[item + workItem.sequence]!;
    const firstRow = work[item + workItem.firstRow]!;
    const allKeys = [...keysOf(work, item, plan.kvTile)];
    env.b = sequence;
    for (let r = 0; r < work[item + workItem.numRows]!; r++) {
      env.q = work[item + workItem.firstPosition]! + r;
      for (let h = 0; h < numQueryHeads; h++) {
        const kvHead = Math.floor(h / (numQueryHeads / numKvHeads));
        const query = rowAt(call.query, queries, sequence, firstRow + r, h, headDimQk);
        env.h = h;

        const seen: { readonly score: number; readonly page: number; readonly token: number }[] = [];
        let max = -Infinity;
        for (const { kv, partial } of allKeys) {
          env.kv = kv;
          if (partial && maskMod && !maskMod(env)) continue;
          const page = blockTable[sequence * call.maxPagesPerSequence + Math.floor(kv / call.pageSize)]!;
          const token = kv % call.pageSize;
          const key = rowAt(call.key, keys, page, token, kvHead, headDimQk);
          let dot = 0;
          for (let d = 0; d < headDimQk; d++) dot += query[d]! * key[d]!;
          env.score = plan.scale * dot;
          const score = scoreMod(env);
          if (score === -Infinity) continue;
          seen.push({ score, page, token });
          max = Math.max(max, score);
        }

        let sum = 0;
        const weighted = new Float64Array(headDimV);
        for (const { score, page, token } of seen) {
          const weight = Math.exp(score - max);
          const value = rowAt(call.value, values, page, token, kvHead, headDimV);
          sum += weight;
          for (let d = 0; d < headDimV; d++) weighted[d]! += weight * value[d]!;
        }
        const out = rowAt(call.out, outputs, sequence, firstRow + r, h, headDimV);
        for (let d = 0; d < headDimV; d++) out[d] = seen.length > 0 ? weighted[d]! / sum : 0;
        if (lse) lse[sequence * call.lse!.sequenceStride + (firstRow + r) * numQueryHeads + h] = max + Math.log(sum);
      }
    }
  }
}

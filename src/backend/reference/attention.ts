/**
 * The definition of one attention launch. For every work item, head and row, over the keys of its runs:
 *
 *   s[kv] = scoreMod(scale * q.k)      a key that the mask (in partial blocks) or -Infinity removes has no part
 *   out   = sum softmax(s)[kv] * v[kv]       lse = log sum e^s[kv]
 *
 * A sink's logit joins the sum without a value; a weightMod stands for exp and leaves the sum out; an outputMod comes last.
 * Mods are evaluated as `ir/interpret.ts` defines them; dots, softmax and sums are in double; a result is rounded to f32, and then to the plan's
 * queryFormat. A row with no key is 0, its lse -Infinity.
 */
import { fromBf16, fromF16, fromFp8 } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { type CaptureEnv, type Env, evaluator } from "../../ir/interpret.ts";
import { type AttentionPlan, type KvFormat, runWords, workHeaderWords, workItem } from "../../ir/plan.ts";
import type { AttentionCall, Layout, RowStatistic } from "../backend.ts";
import { bytesOf, f32Of, floatsAt, i32Of, putFloats } from "./memory.ts";

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
  const weightMod = plan.weightMod && evaluator(plan.weightMod);
  const outputMod = plan.outputMod && evaluator(plan.outputMod);
  const sinks = call.sink && f32Of(call.sink);
  const env: { -readonly [K in keyof Env]: Env[K] } = { ...captureEnv(call), b: 0, h: 0, q: 0, kv: 0, score: 0 };

  const { queryFormat = "f32" } = plan;
  const at = (layout: Layout, outer: number, row: number, head: number): number => outer * layout.sequenceStride + row * layout.rowStride + head * layout.headStride;
  const keyAt = kvReader(call.key, plan.keyFormat ?? "f32", call.keyScale), valueAt = kvReader(call.value, plan.valueFormat ?? "f32", call.valueScale);
  const statistic = (to: RowStatistic | undefined, sequence: number, row: number, head: number, x: number): void => {
    if (to) f32Of(to.data)[sequence * to.sequenceStride + row * numQueryHeads + head] = x;
  };

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
        const query = floatsAt(call.query.data, queryFormat, at(call.query, sequence, firstRow + r, h), headDimQk);
        env.h = h;

        const seen: { readonly score: number; readonly page: number; readonly token: number }[] = [];
        for (const { kv, partial } of allKeys) {
          env.kv = kv;
          if (partial && maskMod && !maskMod(env)) continue;
          const page = blockTable[sequence * call.maxPagesPerSequence + Math.floor(kv / call.pageSize)]!;
          const token = kv % call.pageSize;
          let dot = 0;
          for (let d = 0; d < headDimQk; d++) dot += query[d]! * keyAt(page, token, kvHead, d);
          env.score = plan.scale * dot;
          const score = scoreMod(env);
          if (weightMod) {
            env.score = score;
            seen.push({ score: weightMod(env), page, token });
          } else if (score !== -Infinity) seen.push({ score, page, token });
        }

        const extra = plan.denominator === "one" ? 0 : plan.denominator === "sink" ? sinks![h]! : -Infinity;
        const max = seen.reduce((m, { score }) => Math.max(m, score), extra);
        let sum = extra === -Infinity ? 0 : Math.exp(extra - max);
        const weighted = new Float64Array(headDimV);
        for (const { score, page, token } of seen) {
          const weight = weightMod ? score : Math.exp(score - max);
          sum += weight;
          for (let d = 0; d < headDimV; d++) weighted[d]! += weight * valueAt(page, token, kvHead, d);
        }
        const out = new Float32Array(headDimV);
        for (let d = 0; d < headDimV; d++) {
          out[d] = weightMod || sum === 0 ? weighted[d]! : weighted[d]! / sum;
          env.kv = d;
          env.score = out[d]!;
          if (outputMod) out[d] = outputMod(env);
        }
        putFloats(call.out.data, queryFormat, at(call.out, sequence, firstRow + r, h), out);
        if (weightMod) continue;
        statistic(call.lse, sequence, firstRow + r, h, max + Math.log(sum));
        statistic(call.maxScore, sequence, firstRow + r, h, max);
      }
    }
  }
}

/** Element d of a key's or value's row, widened. */
function kvReader(layout: Layout, format: KvFormat, scale: Layout | undefined): (page: number, token: number, head: number, d: number) => number {
  const bytes = bytesOf(layout.data);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const read: Readonly<Record<KvFormat, (i: number) => number>> = {
    f32: (i) => view.getFloat32(4 * i, true), bf16: (i) => fromBf16(view.getUint16(2 * i, true)), f16: (i) => fromF16(view.getUint16(2 * i, true)),
    int8: (i) => view.getInt8(i), fp8: (i) => fromFp8(view.getUint8(i)),
  };
  const scales = scale && f32Of(scale.data);
  const at = (l: Layout, page: number, token: number, head: number): number => page * l.sequenceStride + token * l.rowStride + head * l.headStride;
  return (page, token, head, d) => {
    const x = read[format](at(layout, page, token, head) + d);
    return scales ? Math.fround(x * scales[at(scale, page, token, head)]!) : x;
  };
}

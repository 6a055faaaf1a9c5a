/**
 * One attention over random tensors, ready to be launched again and again: to see what a mod costs. It knows no clock.
 */
import type { AttentionCall, Backend, Buffer, CaptureValue } from "../backend/backend.ts";
import { fromFloat32 } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { stream } from "../core/random.ts";
import { type KvFormat, runWords, workHeaderWords, workItem } from "../ir/plan.ts";
import { readCaptures } from "./captures.ts";
import { type AttentionSpec, compileAttention } from "./compile.ts";
import { planWork } from "./work-list.ts";

export interface Prepared {
  /** Pairs of a query and a key, of one head, in the tiles that the kernel visits; all of a tile's count. */
  readonly pairs: number;
  /** Operations of one launch: 2 (D + Dv) for each pair and query head. */
  readonly flops: number;
  /** Launches once; resolves when it is done. @throws UsageError when a mod's load leaves its table */
  run(): Promise<void>;
  free(): void;
}

/** [1, query heads, queryLength, D] queries over [1, kv heads, kvLength, D] keys, numbers from -0.5 to 0.5. */
export async function prepare(backend: Backend, spec: AttentionSpec, queryLength: number, kvLength = queryLength): Promise<Prepared> {
  const { kernel, bindings, mask } = await compileAttention(backend, spec);
  const { numQueryHeads, numKvHeads, headDimQk, headDimV } = spec;
  const values = readCaptures(bindings);
  const one = (n: number): Int32Array => Int32Array.of(n);
  const batch = { numSequences: 1, firstRow: one(0), numRows: one(queryLength), firstPosition: one(0), kvLength: one(kvLength) };
  const list = planWork(mask?.bind(values), batch, { ...kernel.plan, numQueryHeads });
  const buffers: Buffer[] = [];
  const upload = (data: Uint8Array | Float32Array | Int32Array): Buffer => {
    const buffer = backend.alloc(Math.max(4, data.byteLength));
    buffers.push(buffer);
    if (data.byteLength > 0) backend.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return buffer;
  };
  const { queryFormat = "f32", keyFormat = "f32", valueFormat = "f32" } = kernel.plan;
  const random = stream(1);
  const noise = Float32Array.from({ length: 4096 }, () => random() - 0.5);
  const matrix = (format: KvFormat, rows: number, heads: number, dim: number) => ({
    data: upload(inFormat(Float32Array.from({ length: rows * heads * dim }, (_, i) => noise[(i * 31 + (i >> 12)) & 4095]!), format)),
    sequenceStride: rows * heads * dim, rowStride: heads * dim, headStride: dim,
  });
  const captures = kernel.plan.captures.map((slot): CaptureValue => {
    if (slot.kind === "uniform") return { kind: "uniform", value: values.uniforms[slot.name]! };
    const { data, shape } = values.tables[slot.name]!;
    return { kind: "table", shape, data: upload(slot.type === "f32" ? Float32Array.from(data) : Int32Array.from(data)) };
  });
  const call: AttentionCall = {
    kernel, captures, query: matrix(queryFormat, queryLength, numQueryHeads, headDimQk), out: matrix(queryFormat, queryLength, numQueryHeads, headDimV),
    key: matrix(keyFormat, kvLength, numKvHeads, headDimQk), value: matrix(valueFormat, kvLength, numKvHeads, headDimV),
    pageSize: Math.max(1, kvLength), blockTable: upload(one(0)), maxPagesPerSequence: 1, work: upload(list),
  };
  const pairs = pairsOf(list, kernel.plan.kvTile);
  return {
    pairs, flops: 2 * (headDimQk + headDimV) * numQueryHeads * pairs,
    async run() {
      backend.ops.attention(call);
      await backend.read(call.out.data, 0, 4);
    },
    free: () => buffers.forEach((buffer) => backend.free(buffer)),
  };
}

function inFormat(values: Float32Array, format: KvFormat): Uint8Array {
  if (format === "int8" || format === "fp8") throw new UsageError(`keys and values of ${format} need scales, and are not measured here; use f32, bf16 or f16`);
  return fromFloat32(values, format);
}

/** Pairs of a row and a key in all blocks of a work list. */
function pairsOf(list: Int32Array, kvTile: number): number {
  let pairs = 0;
  for (let item = 0; item < list[0]!; item++) {
    const at = workHeaderWords + item * workItem.words, firstRun = list[1]! + list[at + workItem.firstRun]! * runWords;
    for (let r = 0; r < list[at + workItem.numRuns]!; r++) pairs += (list[firstRun + r * runWords + 1]! >> 1) * kvTile * list[at + workItem.numRows]!;
  }
  return pairs;
}

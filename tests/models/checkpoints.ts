/** Where the fixture checkpoints are, what their goldens say, and how to write a checkpoint for a test. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type DType, fromFloat32, toFloat32 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";
import { readConfig } from "../../src/model/config.ts";
import { families } from "../../src/model/registry.ts";
import { listTensors } from "../../src/model/tensors.ts";
import { files } from "../../src/weights/files.node.ts";
import { readHeader } from "../../src/weights/safetensors.ts";

export const fixtureNames = ["llama", "llama3-rope", "llama-tied-bias", "mistral-sw", "qwen2", "qwen3", "gemma2", "gemma3"] as const;
export const fixture = (name: string): string => join(import.meta.dirname, "..", "fixtures", "hf", name);

export interface Golden {
  readonly ids: readonly number[];
  /** Of the last positions, at most 8. */
  readonly logits: readonly Float32Array[];
  readonly greedy: readonly number[];
  /** How far the best token led at each greedy step. */
  readonly margin: readonly number[];
}

/** The goldens of prompts p0, p1 and p2. */
export function readGoldens(name: string): readonly Golden[] {
  const file = files.openFile(join(fixture(name), "golden.safetensors"));
  const tensors = readHeader(file);
  const read = (tensor: string, dtype: DType): Float32Array => {
    const { begin, bytes } = tensors.get(tensor)!;
    const data = new Uint8Array(bytes);
    file.read(data, begin);
    return toFloat32(data, dtype);
  };
  const goldens = ["p0", "p1", "p2"].map((p): Golden => {
    const [rows, columns] = tensors.get(`${p}.logits`)!.shape as [number, number];
    const logits = read(`${p}.logits`, "f32");
    return {
      ids: [...read(`${p}.ids`, "i32")], greedy: [...read(`${p}.greedy`, "i32")], margin: [...read(`${p}.margin`, "f32")],
      logits: Array.from({ length: rows }, (_, r) => logits.subarray(r * columns, (r + 1) * columns)),
    };
  });
  file.close();
  return goldens;
}

export interface FileTensor {
  readonly dtype: "F32" | "F16" | "BF16";
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** A tensor of these values in the file's element type. */
export function tensor(dtype: FileTensor["dtype"], shape: readonly number[], values: ArrayLike<number>): FileTensor {
  return { dtype, shape, data: fromFloat32(values, dtype.toLowerCase() as DType) };
}

/** The tensors of a safetensors file. */
export function readTensors(path: string): Map<string, FileTensor> {
  const file = files.openFile(path);
  const tensors = new Map<string, FileTensor>();
  for (const [name, { dtype, shape, begin, bytes }] of readHeader(file)) {
    const data = new Uint8Array(bytes);
    file.read(data, begin);
    tensors.set(name, { dtype: dtype as FileTensor["dtype"], shape, data });
  }
  file.close();
  return tensors;
}

export function writeTensors(path: string, tensors: ReadonlyMap<string, FileTensor>): void {
  let end = 0;
  const header = Buffer.from(JSON.stringify(Object.fromEntries([...tensors].map(([name, { dtype, shape, data }]) => [name, { dtype, shape, data_offsets: [end, (end += data.length)] }]))));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(path, Buffer.concat([length, header, ...[...tensors.values()].map(({ data }) => data)]));
}

/** A random checkpoint of the given config, in `dtype`. */
export function randomCheckpoint(t: TestContext, raw: Readonly<Record<string, unknown>>, dtype: "F32" | "BF16"): string {
  const folder = temporaryFolder(t, { "config.json": raw });
  const random = stream(7);
  const specs = listTensors(readConfig({ config: raw, weightDType: "f32" }, families));
  writeTensors(join(folder, "model.safetensors"), new Map(specs.flatMap((spec) => spec.parts).map(({ source, shape }) => {
    const size = shape.reduce((a, b) => a * b);
    return [source, tensor(dtype, shape, Float32Array.from({ length: size }, () => (shape.length === 1 ? 1 : 0) + (random() - 0.5) * 0.4))];
  })));
  return folder;
}

/** A folder that goes away with the test, holding these JSON files. */
export function temporaryFolder(t: TestContext, contents: Readonly<Record<string, unknown>> = {}): string {
  const folder = mkdtempSync(join(tmpdir(), "tessera-model-"));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const [name, value] of Object.entries(contents)) writeFileSync(join(folder, name), JSON.stringify(value));
  return folder;
}

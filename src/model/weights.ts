/**
 * Brings a checkpoint's tensors into a backend's memory: straight from the file where nothing changes on the way, else
 * piece by piece through a small buffer. At no time is a whole tensor held twice.
 */
import type { Backend, Buffer, Weight } from "../backend/backend.ts";
import { bytesPerElement, type DType, fromFloat32, toFloat32 } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { readInOrder, type StoredTensor, type WeightSource } from "../weights/source.ts";
import type { ModelConfig } from "./config.ts";
import { isSpare, listTensors, mapTensors, modelTensors, type ModelTensors, tensorBytes, type TensorSpec } from "./tensors.ts";

/** Bytes read at a time where elements change. A multiple of every element's size. */
const chunkBytes = 2 ** 22;

/** What a checkpoint's elements may be. */
const readable: Readonly<Partial<Record<StoredTensor["dtype"], DType>>> = { F32: "f32", F16: "f16", BF16: "bf16" };

const listed = (names: readonly string[]): string => names.slice(0, 5).join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "");

/**
 * @throws UsageError when the checkpoint lacks a tensor the model needs, has one nobody reads, or has one of another shape or
 * element type, by name.
 */
export function checkWeights(source: WeightSource, config: ModelConfig): void {
  const needed = new Map(listTensors(config).flatMap((spec) => spec.parts.map((part) => [part.source, part.shape] as const)));
  const missing = [...needed.keys()].filter((name) => !source.info(name));
  if (missing.length > 0) throw new UsageError(`the checkpoint lacks ${listed(missing)}, which ${config.architecture} with this config.json needs`);
  const unexpected = [...source.names()].filter((name) => !needed.has(name) && !isSpare(name, config));
  if (unexpected.length > 0) throw new UsageError(`the checkpoint has ${listed(unexpected)}, which ${config.architecture} with this config.json does not use; is config.json of another model?`);
  for (const [name, shape] of needed) {
    const info = source.info(name)!;
    if (String(info.shape) !== String(shape)) throw new UsageError(`${name} has shape [${info.shape}], but config.json asks for [${shape}]`);
    if (!readable[info.dtype]) throw new UsageError(`${name} is ${info.dtype}; a checkpoint in ${Object.keys(readable).join(", ")} is needed`);
  }
}

/** How matrices are kept in memory: as asked for, or ("auto") bf16 where the checkpoint has nothing else, and f32 otherwise. */
export function chooseDType(source: WeightSource, asked: "auto" | "float32" | "bfloat16"): ModelConfig["weightDType"] {
  if (asked !== "auto") return asked === "float32" ? "f32" : "bf16";
  return [...source.names()].every((name) => source.info(name)!.dtype === "BF16" || source.info(name)!.shape.length < 2) ? "bf16" : "f32";
}

/**
 * Loads every tensor into memory that `alloc` gives (one call for each, by the tensor's name).
 * @param onBytes told after each tensor how many bytes are in memory, and how many there will be
 */
export function loadWeights(backend: Backend, source: WeightSource, config: ModelConfig, alloc: (name: string) => Buffer, onBytes: (done: number, total: number) => void): ModelTensors<Weight> {
  checkWeights(source, config);
  const total = listTensors(config).reduce((bytes, spec) => bytes + tensorBytes(spec), 0);
  let done = 0;
  return mapTensors(modelTensors(config), (spec) => {
    const data = alloc(spec.name);
    let at = 0;
    for (const part of spec.parts) at += loadPart(backend, source, part.source, spec, data, at);
    onBytes((done += tensorBytes(spec)), total);
    return { data, dtype: spec.dtype, rows: spec.rows, columns: spec.columns };
  });
}

/** Loads one tensor of the file to byte `at` of `data`. Returns the bytes it takes there. */
function loadPart(backend: Backend, source: WeightSource, name: string, spec: TensorSpec, data: Buffer, at: number): number {
  const info = source.info(name)!;
  const stored = readable[info.dtype]!;
  const unchanged = stored === spec.dtype && spec.offset === 0;
  const view = backend.view(data);
  if (unchanged && view) {
    readInOrder(source, name, view.subarray(at, at + info.bytes));
    return info.bytes;
  }
  const ratio = bytesPerElement[spec.dtype] / bytesPerElement[stored];
  const chunk = new Uint8Array(Math.min(info.bytes, chunkBytes));
  for (let from = 0; from < info.bytes; from += chunk.length) {
    const bytes = chunk.subarray(0, Math.min(chunk.length, info.bytes - from));
    readInOrder(source, name, bytes, from);
    backend.write(data, at + from * ratio, unchanged ? bytes : convert(bytes, stored, spec));
  }
  return info.bytes * ratio;
}

function convert(bytes: Uint8Array, stored: DType, { dtype, offset }: TensorSpec): Uint8Array {
  const values = toFloat32(bytes, stored);
  if (offset !== 0) for (let i = 0; i < values.length; i++) values[i]! += offset;
  return fromFloat32(values, dtype);
}

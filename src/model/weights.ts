/**
 * Brings a checkpoint's tensors into a backend's memory: straight from the file where nothing changes on the way, else
 * piece by piece through a small buffer. A whole tensor is held twice only where its rows are stored in another order.
 */
import type { Backend, Buffer, Weight } from "../backend/backend.ts";
import { isQuantized, panelRows, type QuantizedDType } from "../backend/quantized.ts";
import { bytesPerElement, fromFloat32, toFloat32 } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { type BlockType, blockFormats } from "../weights/block-formats.ts";
import { packer } from "../weights/packed-blocks.ts";
import { readInOrder, type StoredTensor, type WeightSource } from "../weights/source.ts";
import type { ModelConfig } from "./config.ts";
import { stagingBytes } from "./memory.ts";
import { isSpare, listTensors, mapTensors, modelTensors, type ModelTensors, tensorBytes, type TensorSpec } from "./tensors.ts";

const memoryType: Readonly<Record<"f32" | "bf16" | "f16", BlockType>> = { f32: "F32", bf16: "BF16", f16: "F16" };
const floatTypes = { F32: "f32", BF16: "bf16", F16: "f16" } as const;
/** Checked by `checkWeights`. */
const floatType = (dtype: StoredTensor["dtype"]): "F32" | "BF16" | "F16" | undefined => (dtype === "F32" || dtype === "BF16" || dtype === "F16" ? dtype : undefined);
const stored = (dtype: StoredTensor["dtype"]): BlockType => dtype as BlockType;

/** Bytes that are taken from the file at a time where they are copied into a backend's memory. */
const copiedBytes = 2 ** 22;

const listed = (names: readonly string[]): string => names.slice(0, 5).join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "");

/**
 * @throws UsageError when the checkpoint lacks a tensor the model needs, has one nobody reads, or has one of another shape or
 * element type, by name.
 */
export function checkWeights(source: WeightSource, config: ModelConfig): void {
  const needed = new Map(listTensors(config).flatMap((spec) => spec.parts.map((part) => [part.source, part.shape] as const)));
  const missing = [...needed.keys()].filter((name) => !source.info(name));
  if (missing.length > 0) throw new UsageError(`the checkpoint lacks ${listed(missing)}, which ${config.architecture} with this config needs`);
  const unexpected = [...source.names()].filter((name) => !needed.has(name) && !isSpare(name, config));
  if (unexpected.length > 0) throw new UsageError(`the checkpoint has ${listed(unexpected)}, which ${config.architecture} with this config does not use; is it of another model?`);
  for (const [name, shape] of needed) {
    const info = source.info(name)!;
    if (String(info.shape) !== String(shape)) throw new UsageError(`${name} has shape [${info.shape}], but the config asks for [${shape}]`);
    if (!Object.hasOwn(blockFormats, info.dtype)) throw new UsageError(`${name} is ${info.dtype}; a checkpoint in ${Object.keys(blockFormats).join(", ")} is needed`);
  }
}

/**
 * Loads every tensor into memory that `alloc` gives (one call for each, by the tensor's name).
 * @param onBytes told after each tensor how many bytes are in memory, and how many there will be
 */
export async function loadWeights(
  backend: Backend, source: WeightSource, config: ModelConfig, alloc: (name: string) => Buffer, onBytes: (done: number, total: number) => void,
): Promise<ModelTensors<Weight>> {
  checkWeights(source, config);
  const total = listTensors(config).reduce((bytes, spec) => bytes + tensorBytes(spec), 0);
  const weights = mapTensors(modelTensors(config), (spec) => ({ spec, weight: { data: alloc(spec.name), dtype: spec.dtype, rows: spec.rows, columns: spec.columns } }));
  const staging = alloc("staging"), chunk = backend.view(staging) ?? new Uint8Array(copiedBytes);
  let done = 0;
  const all: { readonly spec: TensorSpec; readonly weight: Weight }[] = [];
  mapTensors(weights, (each) => all.push(each));
  for (const { spec, weight } of all) {
    let row = 0;
    for (const part of spec.parts) {
      await loadPart(backend, source, part.source, weight, row, spec.offset, chunk);
      row += part.rows;
    }
    onBytes((done += tensorBytes(spec)), total);
  }
  backend.free(staging);
  return mapTensors(weights, ({ weight }) => weight);
}

/** Loads one tensor of the file as rows of `weight` from `firstRow` on. */
async function loadPart(backend: Backend, source: WeightSource, name: string, weight: Weight, firstRow: number, offset: 0 | 1, space: Uint8Array): Promise<void> {
  const { data, dtype, columns } = weight;
  const info = source.info(name)!;
  if (isQuantized(dtype)) return loadQuantized(backend, source, name, weight, dtype, firstRow, space);
  const { blockElements, blockBytes, toFloat32: expand } = blockFormats[stored(info.dtype)], float = floatType(info.dtype);
  const at = firstRow * columns * bytesPerElement[dtype], unchanged = memoryType[dtype] === info.dtype && offset === 0;
  const view = backend.view(data);
  if (unchanged && view) return readInOrder(source, name, view.subarray(at, at + info.bytes));
  const ratio = (bytesPerElement[dtype] * blockElements) / blockBytes;
  const chunk = space.subarray(0, Math.min(info.bytes, Math.floor(space.length / blockBytes) * blockBytes));
  for (let from = 0; from < info.bytes; from += chunk.length) {
    const bytes = chunk.subarray(0, Math.min(chunk.length, info.bytes - from));
    readInOrder(source, name, bytes, from);
    if (unchanged) backend.write(data, at + from, bytes);
    else {
      const values = float ? toFloat32(bytes, floatTypes[float]) : expand(bytes);
      if (offset !== 0) for (let i = 0; i < values.length; i++) values[i]! += offset;
      backend.write(data, at + from * ratio, fromFloat32(values, dtype));
    }
  }
}

/** Rows by whole panels, packed as the backend takes them; all at once where they lie in another order. */
async function loadQuantized(backend: Backend, source: WeightSource, name: string, weight: Weight, dtype: QuantizedDType, firstRow: number, space: Uint8Array): Promise<void> {
  const info = source.info(name)!, rows = info.shape[0]!, rowBytes = info.bytes / rows;
  const type = floatType(info.dtype), pack = packer(stored(info.dtype), dtype);
  const perChunk = info.fileRow ? rows : wholePanels(rowBytes);
  const chunk = perChunk * rowBytes <= space.length ? space : new Uint8Array(perChunk * rowBytes);
  for (let row = 0; row < rows; row += perChunk) {
    const bytes = chunk.subarray(0, Math.min(perChunk, rows - row) * rowBytes);
    source.read(name, bytes, row * rowBytes);
    try {
      const ordered = info.fileRow ? reordered(bytes, rowBytes, info.fileRow) : bytes;
      if (type) await backend.writeRows(weight, firstRow + row, ordered, type);
      else if (pack) await backend.writeRows(weight, firstRow + row, pack(ordered));
      else await roundRows(backend, weight, firstRow + row, ordered, stored(info.dtype));
    } catch (error) {
      if (error instanceof RangeError) throw new UsageError(`${name}: ${error.message}, which ${dtype} cannot hold; load the model with --quantization none`);
      throw error instanceof UsageError ? new UsageError(`${name}: ${error.message}`) : error;
    }
  }
}

/** How many rows to take at a time. Threads lay out whole panels only: one of very wide rows takes more room than is kept for it. */
const wholePanels = (rowBytes: number): number => Math.max(1, Math.floor(stagingBytes / rowBytes / panelRows)) * panelRows;

/** Rows of blocks of a type to those of another, by their numbers; few at a time, as f32 is large. */
async function roundRows(backend: Backend, weight: Weight, firstRow: number, blocks: Uint8Array, type: BlockType): Promise<void> {
  const { blockElements, blockBytes, toFloat32 } = blockFormats[type], rowBytes = (weight.columns / blockElements) * blockBytes;
  const perChunk = wholePanels(weight.columns * bytesPerElement.f32);
  for (let row = 0; row * rowBytes < blocks.length; row += perChunk) {
    const values = toFloat32(blocks.subarray(row * rowBytes, (row + perChunk) * rowBytes));
    await backend.writeRows(weight, firstRow + row, new Uint8Array(values.buffer), "F32");
  }
}

/** Rows in the tensor's order, of all its rows in the file's. */
function reordered(bytes: Uint8Array, rowBytes: number, fileRow: (row: number) => number): Uint8Array {
  const out = new Uint8Array(bytes.length);
  for (let row = 0; row * rowBytes < bytes.length; row++) out.set(bytes.subarray(fileRow(row) * rowBytes, (fileRow(row) + 1) * rowBytes), row * rowBytes);
  return out;
}

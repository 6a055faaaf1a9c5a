/**
 * A model's GGUF file open for reading, or all files of one that was split (NAME-00001-of-00003.gguf), as one.
 *
 * Its tensors can present themselves under other names as the WeightSource of a checkpoint. Knows no model: which names is said to it.
 */
import { files } from "#files";
import { invariant, UsageError } from "../core/errors.ts";
import { blockFormats } from "./block-formats.ts";
import type { OpenFile } from "./files.ts";
import { type GgufHeader, type GgufTensor, type GgufValue, readGguf, shown, type Skips } from "./gguf.ts";
import type { WeightSource } from "./source.ts";

/** Where a tensor of a checkpoint is found in the file. */
export interface Placement {
  /** The tensor's name in the file. */
  readonly from: string;
  /** Row r of the checkpoint is row fileRow(r) of the file. Left out: they are the same. */
  readonly fileRow?: (row: number) => number;
}

export interface GgufFile {
  readonly path: string;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  /** The elements of a small tensor. */
  floats(name: string): Float32Array<ArrayBuffer>;
  /** The tensors of `placements`, by its names. Closing it closes the file. */
  source(placements: ReadonlyMap<string, Placement>): WeightSource;
  close(): void;
}

/** Whether `path` names a GGUF file. */
export const isGgufPath = (path: string): boolean => /\.gguf$/i.test(path);

/** Opens it; `skips` as for `readGguf`. @throws UsageError when it is not there, is malformed, or is one part of several that do not fit together. */
export function openGguf(path: string, skips?: Skips): GgufFile {
  if (!files.isFile(path)) throw new UsageError(`${path}: there is no such file; give the path of a .gguf file`);
  const open: OpenFile[] = [];
  const close = (): void => open.splice(0).forEach((file) => file.close());
  const tensors = new Map<string, GgufTensor & { readonly file: OpenFile }>();
  const add = (part: string): GgufHeader => {
    const file = files.openFile(part);
    open.push(file);
    const header = readGguf(file, skips);
    for (const [name, tensor] of header.tensors) {
      const other = tensors.get(name);
      if (other) throw new UsageError(`${name} is both in ${other.file.path} and in ${part}`);
      tensors.set(name, { ...tensor, file });
    }
    return header;
  };
  const read = (name: string, into: Uint8Array, offset: number): void => {
    const tensor = tensors.get(name);
    invariant(tensor, `no tensor ${name}`);
    invariant(offset >= 0 && offset + into.byteLength <= tensor.bytes, `bytes ${offset} to ${offset + into.byteLength} of ${name}, which has ${tensor.bytes}`);
    tensor.file.read(into, tensor.begin + offset);
  };
  try {
    const { metadata } = add(path);
    addSplits(path, metadata, add);
    const expected = metadata.get("split.tensors.count");
    if (expected !== undefined && expected !== tensors.size) throw new UsageError(`${path}: split.tensors.count is ${shown(expected)}, but its parts have ${tensors.size} tensors; download them again, all of one model`);
    return {
      path, metadata, tensors, close,
      floats(name) {
        const { dtype, bytes } = tensors.get(name)!;
        const into = new Uint8Array(bytes);
        read(name, into, 0);
        return blockFormats[dtype].toFloat32(into);
      },
      source: (placements) => ({
        names: () => placements.keys(),
        info(name) {
          const placement = placements.get(name);
          const tensor = placement && tensors.get(placement.from);
          return tensor && { dtype: tensor.dtype, shape: tensor.shape, bytes: tensor.bytes, ...(placement.fileRow && { fileRow: placement.fileRow }) };
        },
        read: (name, into, offset = 0) => read(placements.get(name)?.from ?? name, into, offset),
        close,
      }),
    };
  } catch (error) {
    close();
    throw error;
  }
}

/** Opens the other parts of the model whose first part is `path`, where it has any. */
function addSplits(path: string, metadata: GgufHeader["metadata"], add: (path: string) => GgufHeader): void {
  const count = metadata.get("split.count") ?? 1, first = metadata.get("split.no") ?? 0;
  if (count === 0 || count === 1) return;
  const [, stem, number, total] = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i.exec(path) ?? [];
  if (stem === undefined || Number(total) !== count) {
    throw new UsageError(`${path}: split.count is ${shown(count)}; the parts of a split model are expected under the names they were made with, NAME-00001-of-${String(count).padStart(5, "0")}.gguf and so on`);
  }
  if (Number(number) !== 1 || first !== 0) throw new UsageError(`${path} is part ${number} of ${count}; give the first one, ${stem}-00001-of-${total}.gguf`);
  for (let part = 1; part < count; part++) {
    const name = `${stem}-${String(part + 1).padStart(5, "0")}-of-${total}.gguf`;
    if (!files.isFile(name)) throw new UsageError(`${path} is one of ${count} parts, and ${name} is not there; download it beside the first`);
    const header = add(name);
    for (const [key, expected] of [["split.no", part], ["split.count", count]] as const) {
      const found = header.metadata.get(key);
      if (found !== expected) throw new UsageError(`${name}: ${key} is ${shown(found)}, but ${expected} is expected; is it of another model?`);
    }
  }
}

/**
 * The tensors of a checkpoint by name. Here those of a model's folder, whichever files they lie in: one model.safetensors, or shards
 * and an index; gguf-file.ts has the other kind.
 *
 * It reads bytes as they are stored; what they mean and where they go is the loader's.
 */
import { files } from "#files";
import { clipped, invariant, quoted, UsageError } from "../core/errors.ts";
import type { BlockType } from "./block-formats.ts";
import type { OpenFile } from "./files.ts";
import { type FileDType, readHeader, type TensorInfo } from "./safetensors.ts";

/** A tensor as it is stored. */
export interface StoredTensor {
  readonly dtype: FileDType | BlockType;
  readonly shape: readonly number[];
  readonly bytes: number;
  /** Where rows (of a vector: elements) are stored in another order: row r of the tensor is row fileRow(r) of the file. `read` reads the file's. */
  readonly fileRow?: (row: number) => number;
}

export interface WeightSource {
  names(): Iterable<string>;
  /** Undefined when there is no such tensor. */
  info(name: string): StoredTensor | undefined;
  /** Fills `into` with the tensor's bytes from byte `offset` of it on. `into` may be shared memory. */
  read(name: string, into: Uint8Array, offset?: number): void;
  /** Closes its files. */
  close(): void;
}

/** Fills `into` with the tensor's bytes from byte `offset` on, its rows in the tensor's order whatever the file's is. */
export function readInOrder(source: WeightSource, name: string, into: Uint8Array, offset = 0): void {
  const info = source.info(name);
  invariant(info, `no tensor ${name}`);
  if (!info.fileRow) return source.read(name, into, offset);
  const rowBytes = info.bytes / info.shape[0]!;
  for (let done = 0; done < into.byteLength; ) {
    const row = Math.floor((offset + done) / rowBytes), begin = (offset + done) % rowBytes;
    const bytes = Math.min(rowBytes - begin, into.byteLength - done);
    source.read(name, into.subarray(done, done + bytes), info.fileRow(row) * rowBytes + begin);
    done += bytes;
  }
}

const singleFile = "model.safetensors";
const indexFile = "model.safetensors.index.json";

/**
 * Opens the weights in `folder`.
 * @throws UsageError when there are none in safetensors format, or a file is broken.
 */
export function openWeights(folder: string): WeightSource {
  const path = (name: string): string => files.join(folder, name);
  if (files.isFile(path(singleFile))) return openShards([path(singleFile)]);
  const index = files.readText(path(indexFile));
  if (index === undefined) {
    const others = files.list(folder).filter((name) => /\.(safetensors|bin|pt|pth|gguf|h5)$/.test(name));
    throw new UsageError(`${folder} has neither ${singleFile} nor ${indexFile}${others.length ? `, only ${others.join(", ")}` : ""}; save the model with save_pretrained(..., safe_serialization=True)`);
  }
  const map = weightMap(path(indexFile), index);
  const shards = [...new Set(map.values())];
  for (const shard of shards) {
    if (!/^[^/\\]+\.safetensors$/.test(shard)) throw new UsageError(`${path(indexFile)}: weight_map names the file ${quoted(shard)}, which is not a .safetensors file of this folder`);
    if (!files.isFile(path(shard))) throw new UsageError(`${path(indexFile)} names ${shard}, which is not there; download it into ${folder}`);
  }
  const source = openShards(shards.map(path));
  for (const [name, shard] of map) {
    if (source.info(name)) continue;
    source.close();
    throw new UsageError(`${path(indexFile)} says that ${clipped(name)} is in ${shard}, but it is not`);
  }
  return source;
}

function weightMap(path: string, text: string): Map<string, string> {
  let map: unknown;
  try {
    map = (JSON.parse(text) as { weight_map?: unknown } | null)?.weight_map;
  } catch (error) {
    throw new UsageError(`${path} is not JSON (${(error as Error).message})`);
  }
  if (typeof map !== "object" || map === null) throw new UsageError(`${path} has no weight_map`);
  const entries = Object.entries(map);
  for (const [name, file] of entries) if (typeof file !== "string") throw new UsageError(`${path}: weight_map[${quoted(name)}] is ${quoted(file)}, not a file name`);
  return new Map(entries as [string, string][]);
}

function openShards(paths: readonly string[]): WeightSource {
  const open: OpenFile[] = [];
  const close = (): void => open.splice(0).forEach((file) => file.close());
  const tensors = new Map<string, { readonly file: OpenFile; readonly info: TensorInfo }>();
  try {
    for (const path of paths) {
      const file = files.openFile(path);
      open.push(file);
      for (const [name, info] of readHeader(file)) {
        const other = tensors.get(name);
        if (other) throw new UsageError(`${clipped(name)} is both in ${other.file.path} and in ${path}`);
        tensors.set(name, { file, info });
      }
    }
  } catch (error) {
    close();
    throw error;
  }
  return {
    names: () => tensors.keys(),
    info: (name) => tensors.get(name)?.info,
    read(name, into, offset = 0) {
      const tensor = tensors.get(name);
      invariant(tensor, `no tensor ${name}`);
      invariant(offset >= 0 && offset + into.byteLength <= tensor.info.bytes, `bytes ${offset} to ${offset + into.byteLength} of ${name}, which has ${tensor.info.bytes}`);
      tensor.file.read(into, tensor.info.begin + offset);
    },
    close,
  };
}

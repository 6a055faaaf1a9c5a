/**
 * The header of a GGUF file: metadata by key, tensors by name.
 *
 *   | "GGUF" | u32 version | u64 tensors | u64 keys | { key, type, value }... | { name, dims, type, offset }... | pad | data |
 *
 * A file from anywhere is not trusted: every count and length is held against the bytes that are left before it is believed, and
 * each refusal names the file, the byte where it stands, what was found and what was expected. Knows no model: what keys mean is the reader's.
 */
import { blockFormats, type BlockType } from "./block-formats.ts";
import type { OpenFile } from "./files.ts";
import { HeaderBytes } from "./header-bytes.ts";

export type NumberArray =
  | Uint8Array<ArrayBuffer> | Int8Array<ArrayBuffer> | Uint16Array<ArrayBuffer> | Int16Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Int32Array<ArrayBuffer>
  | Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer> | BigUint64Array<ArrayBuffer> | BigInt64Array<ArrayBuffer>;

/** A metadata value. 64-bit integers are bigints where no number holds them; a list of booleans is bytes of 0 and 1. */
export type GgufValue = string | number | bigint | boolean | readonly string[] | NumberArray;

export interface GgufTensor {
  readonly dtype: BlockType;
  /** Slowest first: [rows, columns], the file's dims reversed. Columns are whole blocks. */
  readonly shape: readonly number[];
  /** Where its first byte stands in the file. */
  readonly begin: number;
  readonly bytes: number;
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

interface ScalarType {
  readonly name: string;
  readonly bytes: number;
  readonly read: (view: DataView, at: number) => number | bigint;
  readonly list: (bytes: ArrayBuffer) => NumberArray;
}

const narrow = (x: bigint): number | bigint => (BigInt.asIntN(54, x) === x ? Number(x) : x);
const bool: ScalarType = { name: "bool", bytes: 1, read: (view, at) => view.getUint8(at), list: (bytes) => new Uint8Array(bytes) };

/** By their number in the file. */
const scalarTypes: Readonly<Record<number, ScalarType>> = {
  0: { name: "u8", bytes: 1, read: (view, at) => view.getUint8(at), list: (bytes) => new Uint8Array(bytes) },
  1: { name: "i8", bytes: 1, read: (view, at) => view.getInt8(at), list: (bytes) => new Int8Array(bytes) },
  2: { name: "u16", bytes: 2, read: (view, at) => view.getUint16(at, true), list: (bytes) => new Uint16Array(bytes) },
  3: { name: "i16", bytes: 2, read: (view, at) => view.getInt16(at, true), list: (bytes) => new Int16Array(bytes) },
  4: { name: "u32", bytes: 4, read: (view, at) => view.getUint32(at, true), list: (bytes) => new Uint32Array(bytes) },
  5: { name: "i32", bytes: 4, read: (view, at) => view.getInt32(at, true), list: (bytes) => new Int32Array(bytes) },
  6: { name: "f32", bytes: 4, read: (view, at) => view.getFloat32(at, true), list: (bytes) => new Float32Array(bytes) },
  7: bool,
  10: { name: "u64", bytes: 8, read: (view, at) => narrow(view.getBigUint64(at, true)), list: (bytes) => new BigUint64Array(bytes) },
  11: { name: "i64", bytes: 8, read: (view, at) => narrow(view.getBigInt64(at, true)), list: (bytes) => new BigInt64Array(bytes) },
  12: { name: "f64", bytes: 8, read: (view, at) => view.getFloat64(at, true), list: (bytes) => new Float64Array(bytes) },
};
const stringType = 8, arrayType = 9;

const typeOfId = new Map(Object.entries(blockFormats).map(([name, { id }]) => [id, name as BlockType]));
/** Types that exist, for the message. */
const otherTypes: Readonly<Record<number, string>> = {
  9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
  24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
};

const maxKeyBytes = 65535;
const maxNameBytes = 64;
const defaultAlignment = 32;
/** The least that an entry can take: key of one letter, type and a byte; name of one letter, a dim, type and offset. */
const minKeyBytes = 8 + 1 + 4 + 1;
const minTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

/** Whether a list of texts is left empty, by its key: whoever needs no vocabulary need not decode it. */
export type Skips = (key: string) => boolean;

/**
 * Reads the header of `file`; the lists of texts that `skips` names are empty.
 * @throws UsageError naming file, byte, what was found and what was expected, when it is not what the format demands.
 */
export function readGguf(file: OpenFile, skips: Skips = () => false): GgufHeader {
  const bytes: HeaderBytes = new HeaderBytes(file, "GGUF");
  const magic = bytes.u32("the magic");
  if (magic !== 0x46554747) bytes.fail(0, `it begins with ${hex(magic)}, but "GGUF" is expected`);
  readVersion(bytes);
  const numTensors = bytes.count("the number of tensors", minTensorBytes);
  const numKeys = bytes.count("the number of keys", minKeyBytes);

  const metadata = new Map<string, GgufValue>();
  let alignment = defaultAlignment;
  for (let i = 0; i < numKeys; i++) {
    const at = bytes.at;
    const key = bytes.text("a key", maxKeyBytes);
    if (key === "") bytes.fail(at, "a key is empty, but a name is expected");
    if (metadata.has(key)) bytes.fail(at, `key ${key} is there a second time, but each may be there once`);
    const valueAt = bytes.at + 4;
    const value = readValue(bytes, key, skips);
    if (key === "general.alignment") {
      if (!isAlignment(value)) bytes.fail(valueAt, `${key} is ${shown(value)}, but a power of two from 8 is expected`);
      alignment = value;
    }
    metadata.set(key, value);
  }
  return { metadata, tensors: readTensors(bytes, file.bytes, numTensors, alignment) };
}

function readVersion(bytes: HeaderBytes): void {
  const at = bytes.at;
  const version = bytes.u32("the version");
  if (version !== 0 && (version & 0xffff) === 0) bytes.fail(at, `the version is ${hex(version)}: a big-endian file, but little-endian is expected; convert it with gguf-py's gguf_convert_endian.py`);
  if (version !== 2 && version !== 3) bytes.fail(at, `the version is ${version}, but 2 or 3 is expected; convert the model again with a newer llama.cpp`);
}

function readValue(bytes: HeaderBytes, key: string, skips: Skips): GgufValue {
  const at = bytes.at;
  const type = bytes.u32(`the type of ${key}`);
  if (type === stringType) return bytes.text(key);
  if (type === arrayType) return readArray(bytes, key, skips);
  const scalar = scalarTypes[type] ?? bytes.fail(at, `${key} has type ${type}, but one from 0 to 12 is expected`);
  const begin = bytes.take(scalar.bytes, key);
  const value = scalar.read(bytes.view, begin);
  if (scalar !== bool) return value;
  if (value !== 0 && value !== 1) bytes.fail(begin, `${key} is a bool of ${value}, but 0 or 1 is expected`);
  return value === 1;
}

function readArray(bytes: HeaderBytes, key: string, skips: Skips): GgufValue {
  const at = bytes.at;
  const type = bytes.u32(`the element type of ${key}`);
  if (type === arrayType) bytes.fail(at, `${key} is a list of lists, but a list of strings, numbers or bools is expected`);
  if (type === stringType) {
    const count = bytes.count(`the length of ${key}`, 8);
    if (!skips(key)) return bytes.texts(count, key);
    bytes.skipTexts(count, key);
    return [];
  }
  const scalar = scalarTypes[type] ?? bytes.fail(at, `${key} has elements of type ${type}, but one from 0 to 12 is expected`);
  const count = bytes.count(`the length of ${key}`, scalar.bytes);
  const begin = bytes.take(count * scalar.bytes, key);
  const list = scalar.list(bytes.copy(begin, count * scalar.bytes));
  if (scalar === bool) {
    const wrong = (list as Uint8Array).findIndex((x) => x > 1);
    if (wrong >= 0) bytes.fail(begin + wrong, `${key}[${wrong}] is a bool of ${list[wrong]}, but 0 or 1 is expected`);
  }
  return list;
}

function readTensors(bytes: HeaderBytes, fileBytes: number, numTensors: number, alignment: number): ReadonlyMap<string, GgufTensor> {
  const entries = new Map<string, { readonly at: number; readonly dtype: BlockType; readonly shape: readonly number[]; readonly offset: number; readonly bytes: number }>();
  for (let i = 0; i < numTensors; i++) {
    const at = bytes.at;
    const name = bytes.text("a tensor's name", maxNameBytes);
    if (name === "") bytes.fail(at, "a tensor's name is empty, but a name is expected");
    if (entries.has(name)) bytes.fail(at, `tensor ${name} is there a second time, but each may be there once`);
    const dimsAt = bytes.at;
    const numDims = bytes.u32(`the number of dims of ${name}`);
    if (numDims < 1 || numDims > 4) bytes.fail(dimsAt, `tensor ${name} has ${numDims} dims, but 1 to 4 are expected`);
    const dims: number[] = [];
    let elements = 1;
    for (let d = 0; d < numDims; d++) {
      const dimAt = bytes.at;
      const dim = bytes.u64(`a dim of ${name}`);
      if (dim < 1) bytes.fail(dimAt, `dim ${d} of tensor ${name} is 0, but a size from 1 is expected`);
      if (dim > Number.MAX_SAFE_INTEGER / elements) bytes.fail(dimAt, `dim ${d} of tensor ${name} is ${bytes.exact(dimAt)}: more elements than can be counted`);
      elements *= dim;
      dims.push(dim);
    }
    const typeAt = bytes.at;
    const id = bytes.u32(`the type of ${name}`);
    const dtype = typeOfId.get(id) ?? bytes.fail(typeAt, `tensor ${name} is of type ${otherTypes[id] ?? id}, but ${Object.keys(blockFormats).join(", ")} can be read here; take another file of this model`);
    const { blockElements, blockBytes } = blockFormats[dtype];
    if (dims[0]! % blockElements !== 0) bytes.fail(dimsAt + 4, `tensor ${name} has rows of ${dims[0]} elements, but ${dtype} expects a multiple of ${blockElements}`);
    const offsetAt = bytes.at;
    const offset = bytes.u64(`the offset of ${name}`);
    if (offset % alignment !== 0) bytes.fail(offsetAt, `tensor ${name} begins at byte ${bytes.exact(offsetAt)} of the data, but a multiple of ${alignment} is expected`);
    entries.set(name, { at: offsetAt, dtype, shape: dims.reverse(), offset, bytes: (elements / blockElements) * blockBytes });
  }

  const dataBegin = alignUp(bytes.at, alignment);
  const tensors = new Map<string, GgufTensor>();
  for (const [name, { at, dtype, shape, offset, bytes: size }] of entries) {
    const begin = dataBegin + offset;
    if (begin > fileBytes || size > fileBytes - begin) {
      bytes.fail(at, `tensor ${name} (${dtype} [${shape}]) takes ${size} bytes from byte ${begin} on, but the file has ${fileBytes}; was it cut short?`);
    }
    tensors.set(name, { dtype, shape, begin, bytes: size });
  }
  // Back to back, as every writer lays them: then none overlaps another, and nothing hides between them.
  let end = dataBegin, before = "the header";
  for (const [name, { begin, bytes: size }] of [...tensors].sort(([, a], [, b]) => a.begin - b.begin)) {
    const expected = alignUp(end, alignment);
    if (begin !== expected) {
      bytes.fail(entries.get(name)!.at, `tensor ${name} begins at byte ${begin}, ${begin < expected ? "inside" : "with a hole after"} ${before}; ${expected} is expected`);
    }
    end = begin + size;
    before = `tensor ${name}`;
  }
  return tensors;
}

const alignUp = (n: number, alignment: number): number => Math.ceil(n / alignment) * alignment;
const isAlignment = (x: GgufValue): x is number => typeof x === "number" && Number.isSafeInteger(x) && x >= 8 && x <= 2 ** 31 && Number.isInteger(Math.log2(x));
const hex = (n: number): string => `0x${n.toString(16).padStart(8, "0")}`;

/** A value as a message can show it. */
export function shown(value: GgufValue | undefined): string {
  if (value === undefined) return "missing";
  if (typeof value === "object") return `a list of ${value.length}`;
  return typeof value === "string" ? JSON.stringify(value.slice(0, 80)) : String(value);
}

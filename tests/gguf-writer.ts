/**
 * Writes GGUF files for tests: from metadata and tensors to named fields, and from fields to bytes. A fuzzer changes the fields in between.
 *
 * It follows the format's description, not the reader, and checks nothing: a test may ask for a file that is wrong.
 */

const typeIds = { u8: 0, i8: 1, u16: 2, i16: 3, u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9, u64: 10, i64: 11, f64: 12 } as const;
type ScalarName = Exclude<keyof typeof typeIds, "array">;

/** A metadata value with its type, as `["u32", 7]` or, for a list, `["string[]", ["a", "b"]]`. */
export type Entry = readonly [type: ScalarName | `${ScalarName}[]`, value: unknown];

export interface TensorEntry {
  readonly name: string;
  /** Fastest first, as the file has them. */
  readonly dims: readonly number[];
  /** The type's number. */
  readonly type: number;
  readonly data: Uint8Array;
  /** From the beginning of the data; where the tensors before it end, by default. */
  readonly offset?: number;
}

export interface GgufContents {
  readonly version?: number;
  readonly metadata: Readonly<Record<string, Entry>>;
  readonly tensors: readonly TensorEntry[];
}

/** A piece of the file that means one thing. */
export interface Field {
  readonly name: string;
  readonly kind: "u8" | "u32" | "u64" | "text" | "numbers" | "data" | "padding";
  readonly bytes: Uint8Array;
}

const bytesOf = (size: number, write: (view: DataView) => void): Uint8Array => {
  const bytes = new Uint8Array(size);
  write(new DataView(bytes.buffer));
  return bytes;
};
export const u32 = (x: number): Uint8Array => bytesOf(4, (view) => view.setUint32(0, x, true));
export const u64 = (x: number | bigint): Uint8Array => bytesOf(8, (view) => view.setBigUint64(0, BigInt.asUintN(64, BigInt(x)), true));

const scalars: Readonly<Record<Exclude<ScalarName, "string">, readonly [bytes: number, write: (view: DataView, at: number, x: never) => void]>> = {
  u8: [1, (view, at, x: number) => view.setUint8(at, x)],
  i8: [1, (view, at, x: number) => view.setInt8(at, x)],
  u16: [2, (view, at, x: number) => view.setUint16(at, x, true)],
  i16: [2, (view, at, x: number) => view.setInt16(at, x, true)],
  u32: [4, (view, at, x: number) => view.setUint32(at, x, true)],
  i32: [4, (view, at, x: number) => view.setInt32(at, x, true)],
  f32: [4, (view, at, x: number) => view.setFloat32(at, x, true)],
  bool: [1, (view, at, x: boolean | number) => view.setUint8(at, Number(x))],
  u64: [8, (view, at, x: number) => view.setBigUint64(at, BigInt(x), true)],
  i64: [8, (view, at, x: number) => view.setBigInt64(at, BigInt(x), true)],
  f64: [8, (view, at, x: number) => view.setFloat64(at, x, true)],
};

function scalarBytes(type: Exclude<ScalarName, "string">, values: readonly unknown[]): Uint8Array {
  const [size, write] = scalars[type];
  return bytesOf(size * values.length, (view) => values.forEach((x, i) => write(view, i * size, x as never)));
}

const encoder = new TextEncoder();
const textFields = (name: string, text: string): Field[] => {
  const bytes = encoder.encode(text);
  return [{ name: `length of ${name}`, kind: "u64", bytes: u64(bytes.length) }, { name, kind: "text", bytes }];
};

function valueFields(key: string, [type, value]: Entry): Field[] {
  const list = type.endsWith("[]"), scalar = type.replace("[]", "") as ScalarName;
  const values = list ? (value as readonly unknown[]) : [value];
  const head: Field[] = list
    ? [{ name: `type of ${key}`, kind: "u32", bytes: u32(typeIds.array) }, { name: `element type of ${key}`, kind: "u32", bytes: u32(typeIds[scalar]) }, { name: `count of ${key}`, kind: "u64", bytes: u64(values.length) }]
    : [{ name: `type of ${key}`, kind: "u32", bytes: u32(typeIds[scalar]) }];
  if (scalar === "string") return [...head, ...values.flatMap((text, i) => textFields(`value ${i} of ${key}`, text as string))];
  return [...head, { name: `value of ${key}`, kind: "numbers", bytes: scalarBytes(scalar, values) }];
}

/** The file as fields, in order. */
export function ggufFields({ version = 3, metadata, tensors }: GgufContents): Field[] {
  const alignment = Number(metadata["general.alignment"]?.[1] ?? 32) || 1;
  const alignUp = (n: number): number => Math.ceil(n / alignment) * alignment;
  const fields: Field[] = [
    { name: "magic", kind: "u32", bytes: encoder.encode("GGUF") },
    { name: "version", kind: "u32", bytes: u32(version) },
    { name: "number of tensors", kind: "u64", bytes: u64(tensors.length) },
    { name: "number of keys", kind: "u64", bytes: u64(Object.keys(metadata).length) },
    ...Object.entries(metadata).flatMap(([key, entry]) => [...textFields(`key ${key}`, key), ...valueFields(key, entry)]),
  ];
  let end = 0;
  const offsets = tensors.map(({ data, offset = alignUp(end) }) => ((end = offset + data.length), offset));
  tensors.forEach(({ name, dims, type }, i) => {
    fields.push(
      ...textFields(`name of ${name}`, name),
      { name: `number of dims of ${name}`, kind: "u32", bytes: u32(dims.length) },
      ...dims.map((dim, d): Field => ({ name: `dim ${d} of ${name}`, kind: "u64", bytes: u64(dim) })),
      { name: `type of ${name}`, kind: "u32", bytes: u32(type) },
      { name: `offset of ${name}`, kind: "u64", bytes: u64(offsets[i]!) },
    );
  });
  const size = fields.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const padding = (bytes: number): Field => ({ name: "padding", kind: "padding", bytes: new Uint8Array(bytes) });
  fields.push(padding(alignUp(size) - size));
  tensors.forEach(({ name, data }) => fields.push({ name: `data of ${name}`, kind: "data", bytes: data }, padding(alignUp(data.length) - data.length)));
  return fields;
}

export function joinFields(fields: readonly Field[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(fields.reduce((sum, { bytes }) => sum + bytes.length, 0));
  let at = 0;
  for (const { bytes } of fields) {
    out.set(bytes, at);
    at += bytes.length;
  }
  return out;
}

/** The whole file. */
export const writeGguf = (contents: GgufContents): Uint8Array<ArrayBuffer> => joinFields(ggufFields(contents));

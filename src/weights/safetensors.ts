/**
 * The safetensors format: 8 bytes of header length, a JSON header, then the tensors back to back.
 *
 *   | u64 n | { name: { dtype, shape, data_offsets: [begin, end) } } (n bytes) | data |
 *
 * A file from anywhere is not trusted: every number in the header is checked before it is used. Knows no model.
 */
import { clipped, quoted, UsageError } from "../core/errors.ts";
import type { OpenFile } from "./files.ts";

/** Element types as the format names them, with their sizes in bytes. */
export const fileDTypes = {
  F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1, I64: 8, I32: 4, I16: 2, I8: 1, U64: 8, U32: 4, U16: 2, U8: 1, BOOL: 1,
} as const;
export type FileDType = keyof typeof fileDTypes;

export interface TensorInfo {
  readonly dtype: FileDType;
  readonly shape: readonly number[];
  /** Where its first byte stands in the file. */
  readonly begin: number;
  readonly bytes: number;
}

/** As the format's own reader has it. */
export const maxHeaderBytes = 100_000_000;

const isCount = (x: unknown): x is number => typeof x === "number" && Number.isSafeInteger(x) && x >= 0;

/**
 * The tensors of `file`, by name.
 * @throws UsageError naming file, tensor and value when the header is not what the format demands.
 */
export function readHeader(file: OpenFile): ReadonlyMap<string, TensorInfo> {
  const fail: (what: string) => never = (what) => {
    throw new UsageError(`${file.path} is not a usable safetensors file: ${what}`);
  };
  if (file.bytes < 8) fail(`it has ${file.bytes} bytes, fewer than the 8 of a header length`);
  const lengthBytes = new Uint8Array(8);
  file.read(lengthBytes, 0);
  const headerBytes = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true));
  if (headerBytes > maxHeaderBytes) fail(`its header claims ${headerBytes} bytes, over the limit of ${maxHeaderBytes}`);
  const dataBegin = 8 + headerBytes;
  if (dataBegin > file.bytes) fail(`its header claims ${headerBytes} bytes, but the file has ${file.bytes}; was it cut short?`);
  const text = new Uint8Array(headerBytes);
  file.read(text, 8);

  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of Object.entries(parseObject(text, fail))) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: offsets } = Object(entry) as Record<string, unknown>;
    const tensor = `tensor ${clipped(name)}`;
    if (typeof dtype !== "string" || !Object.hasOwn(fileDTypes, dtype)) fail(`${tensor} has dtype ${quoted(dtype)}, which is not known here`);
    if (!Array.isArray(shape) || !shape.every(isCount)) fail(`${tensor} has shape ${quoted(shape)}`);
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) fail(`${tensor} has data_offsets ${quoted(offsets)}`);
    const [begin, end] = offsets as [number, number];
    const bytes = (shape as number[]).reduce((product, n) => product * n, fileDTypes[dtype as FileDType]);
    if (end - begin !== bytes) fail(`${tensor} (${dtype} ${quoted(shape)}) needs ${bytes} bytes, but data_offsets [${begin}, ${end}] hold ${end - begin}`);
    if (dataBegin + end > file.bytes) fail(`${tensor} ends at byte ${dataBegin + end}, but the file has ${file.bytes}; was it cut short?`);
    tensors.set(name, { dtype: dtype as FileDType, shape: shape as number[], begin: dataBegin + begin, bytes });
  }

  let end = dataBegin;
  for (const [name, tensor] of [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.bytes - b.bytes)) {
    if (tensor.begin < end) fail(`tensor ${clipped(name)} begins at byte ${tensor.begin}, inside the tensor before it, which ends at ${end}`);
    if (tensor.begin > end) fail(`bytes ${end} to ${tensor.begin}, before tensor ${clipped(name)}, belong to no tensor`);
    end = tensor.begin + tensor.bytes;
  }
  if (end !== file.bytes) fail(`bytes ${end} to ${file.bytes}, at its end, belong to no tensor`);
  return tensors;
}

function parseObject(text: Uint8Array, fail: (what: string) => never): object {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(text));
  } catch (error) {
    fail(`its header is not JSON (${(error as Error).message})`);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) fail("its header is not a JSON object");
  return header as object;
}

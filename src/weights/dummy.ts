/**
 * Weights that no file has: small random numbers, the same each time, for measuring a model by its shapes alone.
 *
 * One block of numbers is drawn; every tensor is that block over and over, from a place of its own on. The block's length is a prime, so that the
 * rows of a matrix differ. Reading is copying, as fast as memory goes. Knows no model: it is told names and shapes.
 */
import { bytesPerElement, fromFloat32 } from "../core/dtype.ts";
import { invariant } from "../core/errors.ts";
import { stream } from "../core/random.ts";
import type { StoredTensor, WeightSource } from "./source.ts";

export interface DummyTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** What all elements are; random ones when left out. */
  readonly constant?: number;
}

const types = { F32: "f32", BF16: "bf16", F16: "f16" } as const;
export type DummyType = keyof typeof types;

/** The largest prime below 2^18. */
const blockElements = 262_139;
/** Of the elements, whose mean is 0: transformers' initializer_range. */
const deviation = 0.02;

/** Tensors of `type` whose elements are near enough to normal: the sum of three uniform numbers. */
export function dummySource(type: DummyType, tensors: readonly DummyTensor[]): WeightSource {
  const dtype = types[type], elementBytes = bytesPerElement[dtype];
  const infos = new Map<string, StoredTensor & { readonly block: Uint8Array; readonly start: number }>();
  let random: Uint8Array | undefined;
  tensors.forEach(({ name, shape, constant }, i) => {
    const block = constant === undefined ? (random ??= fromFloat32(noise(), dtype)) : fromFloat32([constant], dtype);
    const bytes = elementBytes * shape.reduce((a, b) => a * b, 1);
    // Multiples of the golden ratio spread the tensors' beginnings over the block.
    infos.set(name, { dtype: type, shape, bytes, block, start: elementBytes * Math.floor(((i * 0.6180339887) % 1) * (block.length / elementBytes)) });
  });
  return {
    names: () => infos.keys(),
    info: (name) => infos.get(name),
    read(name, into, offset = 0) {
      const tensor = infos.get(name);
      invariant(tensor, `no tensor ${name}`);
      invariant(offset >= 0 && offset + into.byteLength <= tensor.bytes, `bytes ${offset} to ${offset + into.byteLength} of ${name}, which has ${tensor.bytes}`);
      const { block, start } = tensor;
      if (block.length === elementBytes) fillWith(into, block, offset);
      else for (let done = 0, at = (start + offset) % block.length; done < into.byteLength; at = 0) {
        const part = block.subarray(at, at + into.byteLength - done);
        into.set(part, done);
        done += part.length;
      }
    },
    close() {},
  };
}

function fillWith(into: Uint8Array, element: Uint8Array, offset: number): void {
  for (let i = 0; i < into.length; i++) into[i] = element[(offset + i) % element.length]!;
}

function noise(): Float32Array {
  const random = stream(0), scale = deviation * 2;
  return Float32Array.from({ length: blockElements }, () => scale * (random() + random() + random() - 1.5));
}

/** A checkpoint of random weights for a config: the shapes that its files would have, and none of the files. Knows no backend. */
import { quoted, UsageError } from "../core/errors.ts";
import { dummySource, type DummyType } from "../weights/dummy.ts";
import type { WeightSource } from "../weights/source.ts";
import type { ModelConfig } from "./config.ts";
import { listTensors } from "./tensors.ts";

/** What transformers calls the types that weights may be stored in. */
const storedTypes: Readonly<Record<string, DummyType>> = { float32: "F32", float16: "F16", bfloat16: "BF16" };

/**
 * Random weights for a config, in the type that its config.json, parsed, names; bfloat16 where it names none. Norms multiply by 1.
 * @throws UsageError for a type that is none of floats
 */
export function dummyWeights(config: ModelConfig, json: unknown): WeightSource {
  const { dtype, torch_dtype: oldName } = Object(json) as Readonly<Record<string, unknown>>;
  const name = String(dtype ?? oldName ?? "bfloat16"), type = Object.hasOwn(storedTypes, name) ? storedTypes[name] : undefined;
  if (!type) throw new UsageError(`config.json: dtype is ${quoted(dtype ?? oldName)}; dummy weights are made in ${Object.keys(storedTypes).join(", ")}`);
  return dummySource(type, listTensors(config).flatMap(({ parts, columns }) => parts.map(({ source, shape }) => {
    const isNorm = columns === 1 && source.endsWith("norm.weight");
    return { name: source, shape, ...(isNorm && { constant: 1 - config.normOffset }) };
  })));
}

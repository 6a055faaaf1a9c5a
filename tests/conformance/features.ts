/** Which hooks flexAttention has on this backend, found by asking for each on one key: a hook that is wired runs by itself. */
import { flexAttention } from "../../src/attention/attention.ts";
import { scoreMod } from "../../src/attention/mod.ts";
import { type Tensor, tensor } from "../../src/attention/tensor.ts";
import type { Backend } from "../../src/backend/backend.ts";
import type { Mods } from "./case.ts";

export type Feature = "sink" | "softmax" | "weightMod" | "outputMod" | "maxScore";

/** Options that make out[0] something else than the only value, 1. */
const probes: Readonly<Record<Feature, { readonly options: object; readonly shows: (out: number, aux: object) => boolean }>> = {
  sink: { options: { sink: Float32Array.of(0) }, shows: (out) => out === 0.5 },
  softmax: { options: { softmax: "one" }, shows: (out) => out === 0.5 },
  weightMod: { options: { weightMod: scoreMod((score) => score + 3), aux: [] }, shows: (out) => out === 3 },
  outputMod: { options: { outputMod: scoreMod((x) => x + 1) }, shows: (out) => out === 2 },
  maxScore: { options: { aux: ["lse", "maxScore"] }, shows: (_out, aux) => "maxScore" in aux && aux.maxScore !== undefined },
};

export async function featuresOf(backend: Backend): Promise<ReadonlySet<Feature>> {
  const found = new Set<Feature>();
  for (const [name, { options, shows }] of Object.entries(probes) as [Feature, (typeof probes)[Feature]][]) {
    try {
      const one = (x: number): Tensor => tensor(Float32Array.of(x), [1, 1, 1, 1]);
      const given = (await flexAttention(one(0), one(1), one(1), { ...options, backend })) as Tensor | { readonly out: Tensor };
      const out = "out" in given ? given.out : given;
      if (shows(out.data[0]!, given)) found.add(name);
    } catch {
      // Refused: the hook is not there.
    }
  }
  return found;
}

/** Why flexAttention cannot be asked for these mods; undefined when it can. */
export function missing(mods: Mods, features: ReadonlySet<Feature>): string | undefined {
  const wanted: Feature[] = [];
  if (mods.sink) wanted.push("sink");
  if (mods.softmax) wanted.push("softmax");
  if (mods.weightMod) wanted.push("weightMod");
  if (mods.outputMod) wanted.push("outputMod");
  const lacks = wanted.filter((name) => !features.has(name));
  if (lacks.length > 0) return `flexAttention has no ${lacks.join(", ")} yet`;
  const coded = [mods.keyFormat, mods.valueFormat].find((f) => f === "int8" || f === "fp8");
  return coded && `flexAttention takes no ${coded} tensors; in pages they run`;
}

/**
 * A model's attention replaced by its operator's: which mods each layer runs, resolved to plain data that crosses to the engine.
 *
 * What is given is what runs: a maskMod replaces the layer's mask (causal order is its own business) and a scoreMod the layer's score
 * mod; what is not given stays the model's. A function of the layer's own mods builds on them: `(own) => and(own.maskMod, mine)`.
 * It knows no model: the layers' own mods are handed in.
 */
import { UsageError } from "../core/errors.ts";
import type { MaskMod, ScoreMod } from "./mod.ts";
import { isShared, type ModData, serialiseMod } from "./mod-data.ts";

/** The mods of a layer as the model has them; no scoreMod where scores are used as they are. */
export interface OwnAttention {
  readonly maskMod: MaskMod;
  readonly scoreMod: ScoreMod | undefined;
}

/** A mod without its being a function, so that of the two things a field takes only one is called with `own`. */
type NotCalled<M> = Pick<M, Extract<keyof M, "kind" | "lower">>;

/** Each a mod, or a function that makes one from the layer's own. */
export interface LayerOverride {
  readonly maskMod?: NotCalled<MaskMod> | ((own: OwnAttention) => MaskMod);
  readonly scoreMod?: NotCalled<ScoreMod> | ((own: OwnAttention) => ScoreMod);
}

export interface AttentionOverride extends LayerOverride {
  /**
   * Layers that differ: by index, from 0, or as ranges of which both ends belong. What a layer's entry does not give is taken from the
   * override as a whole, then from the model. Of two entries for a layer the later one decides.
   */
  readonly layers?: Readonly<Record<number, LayerOverride>> | readonly (LayerOverride & { readonly from: number; readonly to: number })[];
}

/** The mods of some layers, as data. */
export interface OverrideData {
  /** "layers 0 and 2", for errors. */
  readonly label: string;
  readonly maskMod?: ModData;
  readonly scoreMod?: ModData;
}

/** An override that survives structuredClone. Captured numbers and arrays are copied, arrays over a SharedArrayBuffer shared. */
export interface AttentionOverrideData {
  readonly mods: readonly OverrideData[];
  /** Each layer's place in `mods`; -1 where the layer is the model's own. */
  readonly ofLayer: readonly number[];
}

interface Resolved {
  readonly maskMod: MaskMod | undefined;
  readonly scoreMod: ScoreMod | undefined;
}

const fields = ["maskMod", "scoreMod"] as const;

/** What each of a model's layers runs. @throws UsageError naming the field; ModError for a mod that is not in the language */
export function resolveOverride(override: AttentionOverride, own: readonly OwnAttention[]): AttentionOverrideData {
  checkFields("attention", override, ["maskMod", "scoreMod", "layers"]);
  const entries = layerEntries(override.layers, own.length);
  const made = new Map<unknown, Map<unknown, MaskMod | ScoreMod>>();
  /** A mod as given, or made of the layer's own; layers whose own are the same share what is made. */
  const resolve = (field: "maskMod" | "scoreMod", layer: number): MaskMod | ScoreMod | undefined => {
    const given = entries.findLast((entry) => entry.from <= layer && layer <= entry.to && entry.mods[field] !== undefined);
    const value: unknown = given ? given.mods[field] : override[field], path = given ? `${given.path}.${field}` : `attention.${field}`;
    if (value === undefined) return undefined;
    if (isMod(value)) return checkKind(path, field, value);
    if (typeof value !== "function") throw new UsageError(`${path} is ${value === null ? "null" : typeof value}; it must be a mod made with ${field}(), or a function of the layer's own mods that returns one`);
    const key = own[layer]!, known = made.get(value)?.get(key);
    if (known) return known;
    const result: unknown = (value as (own: OwnAttention) => unknown)(key);
    if (!isMod(result)) throw new UsageError(`${path} returned no mod; a function there gets the layer's own { maskMod, scoreMod } and returns a mod. A variant itself is written ${field}((...) => ...)`);
    made.set(value, (made.get(value) ?? new Map<unknown, MaskMod | ScoreMod>()).set(key, checkKind(path, field, result)));
    return result;
  };

  const distinct: Resolved[] = [];
  const ofLayer = own.map((_, layer) => {
    const resolved = { maskMod: resolve("maskMod", layer) as MaskMod | undefined, scoreMod: resolve("scoreMod", layer) as ScoreMod | undefined };
    if (!resolved.maskMod && !resolved.scoreMod) return -1;
    const at = distinct.findIndex((other) => fields.every((field) => other[field] === resolved[field]));
    return at >= 0 ? at : distinct.push(resolved) - 1;
  });
  const serialised = new Map<MaskMod | ScoreMod, ModData>();
  const data = (mod: MaskMod | ScoreMod): ModData => {
    const known = serialised.get(mod) ?? serialiseMod(mod);
    serialised.set(mod, known);
    return known;
  };
  const mods = distinct.map(({ maskMod, scoreMod }, i): OverrideData => ({
    label: layersLabel(ofLayer.flatMap((of, layer) => (of === i ? [layer] : []))),
    ...(maskMod && { maskMod: data(maskMod) }), ...(scoreMod && { scoreMod: data(scoreMod) }),
  }));
  return { mods, ofLayer };
}

interface Entry {
  readonly path: string;
  readonly from: number;
  readonly to: number;
  readonly mods: LayerOverride;
}

function layerEntries(layers: AttentionOverride["layers"], numLayers: number): Entry[] {
  if (layers === undefined) return [];
  if (typeof layers !== "object" || layers === null) throw new UsageError("attention.layers must be { [index]: { maskMod, scoreMod } } or a list of { from, to, maskMod, scoreMod }");
  const entries = Array.isArray(layers)
    ? (layers as readonly (LayerOverride & { readonly from: number; readonly to: number })[]).map((mods, i): Entry => {
        checkFields(`attention.layers[${i}]`, mods, ["from", "to", "maskMod", "scoreMod"]);
        return { path: `attention.layers[${i}]`, from: mods.from, to: mods.to, mods };
      })
    : Object.entries(layers).map(([index, mods]): Entry => {
        checkFields(`attention.layers[${index}]`, mods, ["maskMod", "scoreMod"]);
        return { path: `attention.layers[${index}]`, from: Number(index), to: Number(index), mods };
      });
  for (const { path, from, to } of entries) {
    const inside = (layer: number): boolean => Number.isInteger(layer) && layer >= 0 && layer < numLayers;
    if (!inside(from) || !inside(to) || from > to) {
      throw new UsageError(`${path} is for ${from === to ? `layer ${from}` : `layers ${from} to ${to}`}; the model has layers 0 to ${numLayers - 1}${from > to ? ", and `from` comes first" : ""}`);
    }
  }
  return entries;
}

function checkFields(path: string, value: unknown, known: readonly string[]): void {
  if (typeof value !== "object" || value === null) throw new UsageError(`${path} must be an object with ${known.join(", ")}`);
  const stray = Object.keys(value).find((name) => !known.includes(name));
  if (stray !== undefined) throw new UsageError(`${path}.${stray} is not known; it takes ${known.join(", ")}`);
}

function isMod(value: unknown): value is MaskMod | ScoreMod {
  return typeof value === "function" && "kind" in value && "lower" in value;
}

function checkKind(path: string, field: "maskMod" | "scoreMod", mod: MaskMod | ScoreMod): MaskMod | ScoreMod {
  if (`${mod.kind}Mod` !== field) throw new UsageError(`${path} is a ${mod.kind} mod; give it as ${mod.kind}Mod`);
  return mod;
}

/** [0, 1, 2, 5] as "layers 0-2 and 5". */
function layersLabel(layers: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const layer of layers) {
    const last = ranges.at(-1);
    if (last && last[1] === layer - 1) last[1] = layer;
    else ranges.push([layer, layer]);
  }
  const parts = ranges.map(([from, to]) => (from === to ? String(from) : `${from}-${to}`));
  return `layer${layers.length === 1 ? "" : "s"} ${parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ` : ""}${parts.at(-1)}`;
}

/** The first array over a SharedArrayBuffer that a mod captures: "the maskMod of layers 0 and 2", and the capture's name. */
export function sharedCapture({ mods }: AttentionOverrideData): { readonly mod: string; readonly capture: string } | undefined {
  for (const of of mods) {
    for (const field of fields) {
      const shared = of[field]?.captures.find(({ value }) => typeof value !== "number" && isShared(value.data));
      if (shared) return { mod: `the ${field} of ${of.label}`, capture: shared.slot.name };
    }
  }
  return undefined;
}

/**
 * JSON as an attacker writes it: a tree that can say what JavaScript's values cannot (a key twice, 1e400, a bracket that is never
 * closed), changes of one place of it, and its text. Nothing is copied that is not changed. Knows no format.
 */
import { below, pick, type Random } from "./fuzz.ts";

export type Node =
  | { readonly kind: "object"; readonly entries: readonly (readonly [key: string, value: Node])[] }
  | { readonly kind: "list"; readonly items: readonly Node[] }
  /** A text of JSON as it stands, of a number, a string, or of what is none. */
  | { readonly kind: "raw"; readonly text: string };

export const raw = (text: string): Node => ({ kind: "raw", text });

/** The tree of a value. */
export function treeOf(value: unknown): Node {
  if (Array.isArray(value)) return { kind: "list", items: value.map(treeOf) };
  if (typeof value === "object" && value !== null) return { kind: "object", entries: Object.entries(value).filter(([, item]) => item !== undefined).map(([key, item]) => [key, treeOf(item)]) };
  return raw(JSON.stringify(value));
}

export function textOf(node: Node): string {
  if (node.kind === "raw") return node.text;
  if (node.kind === "list") return `[${node.items.map(textOf).join(",")}]`;
  return `{${node.entries.map(([key, value]) => `${JSON.stringify(key)}:${textOf(value)}`).join(",")}}`;
}

const deep = (open: string, close: string, levels: number): string => open.repeat(levels) + close.repeat(levels);

/** Values where checks end. Those that are no JSON are few, as they tell little. */
export const edges: readonly string[] = [
  ..."0 -0 1 -1 2 3 0.5 -1.5 1.0 1e0 1e400 -1e400 1e-400 5e-324 127 128 255 256 65535 65536 16777216".split(" "),
  ...[31n, 32n, 40n, 53n, 63n, 64n].flatMap((bits) => [2n ** bits - 1n, 2n ** bits, -(2n ** bits)]).map(String),
  "null", "true", "false", "[]", "{}", "[[]]", "[null]", "[0]", "[1,2,3,4,5]", '""', '"0"', '"1"', '" "', '"a"', '"\\u0000"', '"\\ud800"', '"\\udc00x"', '"\\uffff"', '"😀"', '"▁"', '"NaN"',
  '"__proto__"', '"constructor"', '"toString"', '{"__proto__":{"polluted":1}}', '{"constructor":{"prototype":{"polluted":1}}}', '{"length":4294967295}', '{"type":"__proto__"}',
  deep("[", "]", 70), deep("[", "]", 20_000), `${deep('{"a":', "}", 5_000).replace(/^((?:\{"a":)+)/, "$10")}`, `"${"a".repeat(3000)}"`, `[${"0,".repeat(2000)}0]`,
  "NaN", "Infinity", "01", "'a'", "[", "}", '"\u0001"', "",
];

const keys = ["__proto__", "constructor", "toString", "hasOwnProperty", "", "type", "length", "\ud800", "a\u0000b", "x".repeat(300)];

/** Some node of the tree. */
function somewhere(node: Node, random: Random): Node {
  const children = node.kind === "object" ? node.entries.map(([, value]) => value) : node.kind === "list" ? node.items : [];
  return children.length === 0 || random() < 0.2 ? node : somewhere(pick(random, children), random);
}

const numbers: readonly ((x: number) => number)[] = [(x) => x + 1, (x) => x - 1, (x) => -x, (x) => 2 * x, (x) => x / 2, (x) => 1000 * x, (x) => x + 0.5];

function changeText(text: string, random: Random): string {
  const at = below(random, text.length + 1);
  switch (below(random, 5)) {
    case 0: return text.slice(0, at);
    case 1: return text.slice(0, at) + pick(random, ["a", "<", "\ud800", "\u0000", "(a+)+$", "*", "[", "\\", "▁", "😀", " "]) + text.slice(at);
    case 2: return text + text;
    case 3: return text.slice(0, at) + text.slice(at + 1);
    default: return text.toUpperCase();
  }
}

/** The node itself made into another. */
function changed(node: Node, root: Node, random: Random): [Node, string] {
  if (random() < 0.25) {
    const text = pick(random, edges);
    return [raw(text), `is ${text.slice(0, 40)}`];
  }
  if (random() < 0.2) {
    const other = somewhere(root, random);
    return [other, `is ${textOf(other).slice(0, 40)}, from elsewhere`];
  }
  if (node.kind === "raw") {
    const value = /^"[^"\\]*"$/.test(node.text) ? node.text.slice(1, -1) : Number(node.text);
    const next = typeof value === "string" ? JSON.stringify(changeText(value, random)) : Number.isNaN(value) ? pick(random, edges) : String(pick(random, numbers)(value));
    return [raw(next), `is ${next.slice(0, 40)}`];
  }
  const parts: readonly unknown[] = node.kind === "object" ? node.entries : node.items;
  if (parts.length === 0) return [raw(pick(random, edges)), "is no longer empty"];
  const i = below(random, parts.length), j = below(random, parts.length);
  const rebuilt = (list: readonly unknown[]): Node => (node.kind === "object" ? { kind: "object", entries: list as typeof node.entries } : { kind: "list", items: list as typeof node.items });
  switch (below(random, node.kind === "object" ? 6 : 4)) {
    case 0: return [rebuilt(parts.toSpliced(i, 1)), `lost part ${i}`];
    case 1: return [rebuilt(parts.toSpliced(j, 0, parts[i])), `has part ${i} twice`];
    case 2: return [rebuilt(parts.with(i, parts[j]).with(j, parts[i])), `has parts ${i} and ${j} swapped`];
    case 3: return [rebuilt([...parts, ...originalArray(random() < 0.1 && textOf(rebuilt([parts[i]])).length < 300 ? 3000 : 3).fill(parts[i])]), `has part ${i} many times`];
    case 4: {
      const { entries } = node as Extract<Node, { kind: "object" }>;
      const key = random() < 0.5 ? pick(random, keys) : changeText(entries[i]![0], random);
      return [rebuilt(entries.with(i, [key, entries[i]![1]])), `has ${JSON.stringify(entries[i]![0])} under the name ${JSON.stringify(key.slice(0, 30))}`];
    }
    default: {
      const { entries } = node as Extract<Node, { kind: "object" }>;
      const key = random() < 0.5 ? pick(random, keys) : entries[i]![0], text = pick(random, edges);
      return [rebuilt([...entries, [key, raw(text)]]), `has ${JSON.stringify(key.slice(0, 30))}: ${text.slice(0, 40)} added`];
    }
  }
}
/** Lists that a watcher of allocations does not count. */
const originalArray = Array;

/** The tree with one place changed, and what was done. */
export function mutate(root: Node, random: Random): [Node, string] {
  const walk = (node: Node, path: string): [Node, string] => {
    const here = node.kind === "raw" || random() < 0.25 || (node.kind === "object" ? node.entries : node.items).length === 0;
    if (here) {
      const [next, what] = changed(node, root, random);
      return [next, `${path || "the whole"} ${what}`];
    }
    if (node.kind === "object") {
      const i = below(random, node.entries.length), [key, value] = node.entries[i]!;
      const [next, what] = walk(value, `${path}.${key}`);
      return [{ kind: "object", entries: node.entries.with(i, [key, next]) }, what];
    }
    const i = below(random, node.items.length);
    const [next, what] = walk(node.items[i]!, `${path}[${i}]`);
    return [{ kind: "list", items: node.items.with(i, next) }, what];
  };
  return walk(root, "");
}

/** The text with a few bytes changed, as a disk or a line may do it; still of UTF-16 units. */
export function spoil(text: string, random: Random): [string, string] {
  const at = below(random, text.length + 1);
  const made = pick(random, [() => text.slice(0, at), () => text.slice(0, at) + String.fromCharCode(below(random, 128)) + text.slice(at + 1), () => text.slice(0, at) + pick(random, ["\ufeff", "{", "]", '"', "\\", "\u0000", ",,"]) + text.slice(at)])();
  return [made, `the text spoilt at ${at}`];
}

/** One to three changes of the tree, now and then one of its text. */
export function mutated(root: Node, random: Random, did: (what: string) => void): string {
  let node = root;
  for (let left = 1 + below(random, 3); left > 0; left--) {
    const [next, what] = mutate(node, random);
    node = next;
    did(what);
  }
  const text = textOf(node);
  if (random() > 0.05) return text;
  const [spoilt, what] = spoil(text, random);
  did(what);
  return spoilt;
}

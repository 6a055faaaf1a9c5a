/** Several continuations checked in one step: a tree of draft tokens after a prefix (Medusa, EAGLE, SpecInfer). */
import { type MaskMod, maskMod } from "../mod.ts";
import { type Tensor, tensor } from "../tensor.ts";

/**
 * kv < prefixes[b]: kv <= q; else bit kv - prefixes[b] of ancestors[b][q - prefixes[b]]. Node i of sequence b stands at position
 * prefixes[b] + i and sees the prefix, its ancestors and itself. `ancestors` is [sequences, nodes, ceil(nodes / 32)], made by `ancestorBits`.
 */
export function tree(prefixes: Int32Array, ancestors: Tensor): MaskMod {
  return maskMod(({ prefixes, ancestors, nodes }) => (b, _h, q, kv) => {
    const row = q - prefixes[b]!, column = kv - prefixes[b]!;
    if (column < 0) return kv <= q;
    if (row < 0 || row >= nodes || column >= nodes) return false;
    return ((ancestors[b]![row]![column >> 5]! >> (column & 31)) & 1) === 1;
  }, { prefixes, ancestors, nodes: ancestors.shape[1]! });
}

/** The tree of each sequence as bits. A tree is the parent of each node, -1 for a root; parents come before their children. */
export function ancestorBits(parents: readonly ArrayLike<number>[]): Tensor {
  const nodes = Math.max(1, ...parents.map((p) => p.length)), words = Math.ceil(nodes / 32);
  const bits = new Int32Array(parents.length * nodes * words);
  parents.forEach((tree, b) => {
    for (let i = 0; i < tree.length; i++) {
      const row = (b * nodes + i) * words, parent = tree[i]!;
      if (parent >= 0) bits.copyWithin(row, (b * nodes + parent) * words, (b * nodes + parent + 1) * words);
      bits[row + (i >> 5)]! |= 1 << (i & 31);
    }
  });
  return tensor(bits, [parents.length, nodes, words]);
}

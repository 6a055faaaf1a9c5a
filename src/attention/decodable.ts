/**
 * Whether a mask can be served: whether no position ever attends to a later one, and no mod asks which row of a step it is in.
 *
 * A served model computes a prompt in chunks and then token by token, and keeps the keys of each position. A row that attended to later
 * positions would depend on where chunks end. So `mask` must be false wherever kv > q. It is proved over boxes of (q, kv - q - 1), in
 * which `q >= kv` says never at once, and refuted by a point.
 */
import { UsageError } from "../core/errors.ts";
import { binary, constant, type Expr, index } from "../ir/expr.ts";
import { evaluator } from "../ir/interpret.ts";
import { analyse, indicesOf, postOrder, verdict } from "../ir/range.ts";
import { rebuild, simplify } from "../ir/simplify.ts";
import type { MaskMod, ScoreMod } from "./mod.ts";

/** Boxes asked before giving up: some tens of milliseconds. */
const mostBoxes = 400_000;

/** @throws UsageError, with `name` for the mod, when it reads `b` */
export function checkServable(name: string, mod: MaskMod | ScoreMod): void {
  if (!indicesOf(mod.expr()).has("b")) return;
  throw new UsageError(`${name} reads b. In a served model b is the row of a step, which changes as other requests come and go; decide by positions, heads and captures`);
}

/**
 * For positions 0 .. length - 1 and query heads 0 .. heads - 1.
 * @throws UsageError, with `name` for the mask, when a position may attend to a later one, or it cannot be proved that none does
 */
export function checkCausal(name: string, mask: MaskMod, { length, heads }: { readonly length: number; readonly heads: number }): void {
  const expr = mask.expr(), values = mask.values();
  const ahead = analyse(aheadOf(expr)).bind(values);
  const remedy = "A served model computes a prompt in chunks and then one token at a time, so later keys may not be there yet. Make it and(causal, ...)";
  const unproved = (): never => {
    throw new UsageError(`${name} could not be proved to look at no later position than its own. ${remedy}, which leaves the mask as it is if you are right`);
  };
  const evaluate = evaluator(expr);
  const point = (q: number, kv: number): void => {
    for (let h = 0; h < heads; h++) {
      let sees = false;
      try {
        sees = evaluate({ b: 0, h, q, kv, score: 0, ...values }) === 1;
      } catch {
        unproved();
      }
      if (sees) {
        throw new UsageError(`${name} lets position ${q} attend to position ${kv}, which comes later. ${remedy}. ` +
          "(Prefix-LM, where a prompt sees itself whole, would need its whole prompt in one chunk, which is not promised; a maskMod replaces the layer's mask, causal order included.)");
      }
    }
  };
  const open: number[] = [0, length - 1, 0, length - 1];
  for (let boxes = 0; open.length > 0; boxes++) {
    if (boxes === mostBoxes) unproved();
    const d1 = open.pop()!, d0 = open.pop()!, q1 = open.pop()!, q0 = open.pop()!;
    if (q0 + 1 + d0 >= length) continue;
    const is = ahead.classify(0, 0, 0, heads - 1, q0, q1, d0, d1);
    if (is === verdict.never) continue;
    if (is === verdict.always || (q0 === q1 && d0 === d1)) {
      point(q0, q0 + 1 + d0);
      if (is === verdict.always) unproved();
      continue;
    }
    const cut = (lo: number, hi: number): number => (lo + hi) >>> 1;
    if (q1 - q0 >= d1 - d0) open.push(cut(q0, q1) + 1, q1, d0, d1, q0, cut(q0, q1), d0, d1);
    else open.push(q0, q1, cut(d0, d1) + 1, d1, q0, q1, d0, cut(d0, d1));
  }
}

/** The mask at kv + q + 1: what was `kv` counts how far ahead. */
function aheadOf(mask: Expr): Expr {
  const ahead = binary("add", binary("add", index("q"), constant("i32", 1)), index("kv"));
  const done = new Map<Expr, Expr>();
  for (const node of postOrder(mask)) done.set(node, node.kind === "index" && node.name === "kv" ? ahead : rebuild(node, (child) => done.get(child)!));
  return simplify(done.get(mask)!);
}

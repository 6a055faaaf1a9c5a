/** The keys of one block of attention: where their rows lie, or their widened copies. */
import type { AttentionPlan, KvFormat } from "../../ir/plan.ts";
import { forRange, i32, i32x4, lanes, v128, when, type Local, type Memory, type Node, type Operand } from "./assembler.ts";
import { attentionArgs, type Names, type ScratchLayout, up } from "./attention-layout.ts";
import { argument, type MakeLocal } from "./kernel.ts";
import { least } from "./rows.ts";
import { isCopied, widenRow } from "./widen.ts";

/** An address in a row of keys or values: in the cache's memory, or in the first where rows are widened copies in scratch. */
export const inRow = (cache: Memory, format: KvFormat | undefined, dim: number) => (address: Operand): Operand => (isCopied(format, dim) ? address : cache.at(address));

/** Addresses of the block's K and V rows through the block table. Past the end the last row stands in: its scores are masked. */
export function findKeys(plan: AttentionPlan, cache: Memory, layout: ScratchLayout, c: Names<"args" | "scratch" | "sequence" | "head" | "kv0" | "kvLength">, local: MakeLocal): Node[] {
  const i = (name: string): Local => local("i32", name);
  const pageSize = i("pageSize"), table = i("table"), page = i("page"), token = i("token"), j = i("key_j"), last = i("lastKey"), at = i("slotAt");
  const keyBase = i("keyBase"), valueBase = i("valueBase"), keyAddress = i("keyAddress"), valueAddress = i("valueAddress");
  const openPage = (): Node[] => [
    keyAddress.set(i32.add(keyBase, i32.add(i32.mul(i32.load(page), argument(c.args, attentionArgs.keyPage)), i32.mul(token, argument(c.args, attentionArgs.keyToken))))),
    valueAddress.set(i32.add(valueBase, i32.add(i32.mul(i32.load(page), argument(c.args, attentionArgs.valuePage)), i32.mul(token, argument(c.args, attentionArgs.valueToken))))),
  ];
  /** The row's address for the tile functions: itself where it is f32, else that of its widened copy. */
  const placeRow = (format: KvFormat | undefined, dim: number, tile: number, addresses: number, scale: number, address: Local): Node[] => {
    if (!isCopied(format, dim)) return [i32.store(at, address, addresses)];
    const to = i("widened"), rowBytes = 4 * up(dim, 4);
    const factor = i32.add(i32.add(argument(c.args, scale), i32.mul(i32.load(page), argument(c.args, scale + 1))),
      i32.add(i32.mul(token, argument(c.args, scale + 2)), i32.mul(c.head, argument(c.args, scale + 3))));
    return [
      to.set(i32.add(i32.add(c.scratch, tile), i32.mul(least(j, last), rowBytes))),
      i32.store(at, to, addresses),
      when(i32.le_s(j, last), widenRow(local, cache, format, dim, address, to, factor)),
    ];
  };
  const oneByOne = forRange(j, 0, plan.kvTile, 1, [
    at.set(i32.add(c.scratch, i32.shl(j, 2))),
    ...placeRow(plan.keyFormat, plan.headDimQk, layout.keyTile, layout.keyAddress, attentionArgs.keyScale, keyAddress),
    ...placeRow(plan.valueFormat, plan.headDimV, layout.valueTile, layout.valueAddress, attentionArgs.valueScale, valueAddress),
    when(i32.lt_s(j, last), [
      when(i32.lt_u(token.tee(i32.add(token, 1)), pageSize), [
        keyAddress.set(i32.add(keyAddress, argument(c.args, attentionArgs.keyToken))),
        valueAddress.set(i32.add(valueAddress, argument(c.args, attentionArgs.valueToken))),
      ], [token.set(0), page.set(i32.add(page, 4)), ...openPage()]),
    ]),
  ]);
  /** Of a block without an end in it, in pages of fours, four tokens lie in one page. */
  const fourByFour = (): Node[] => {
    const keySteps = local("v128", "keySteps"), valueSteps = local("v128", "valueSteps");
    const steps = (word: number): Node => i32x4.mul(i32x4.splat(argument(c.args, word)), lanes(0, 1, 2, 3));
    return [
      keySteps.set(steps(attentionArgs.keyToken)),
      valueSteps.set(steps(attentionArgs.valueToken)),
      forRange(j, 0, plan.kvTile, 4, [
        when(i32.ge_u(token, pageSize), [token.set(0), page.set(i32.add(page, 4)), ...openPage()]),
        at.set(i32.add(c.scratch, i32.shl(j, 2))),
        v128.store(at, i32x4.add(i32x4.splat(keyAddress), keySteps), layout.keyAddress),
        v128.store(at, i32x4.add(i32x4.splat(valueAddress), valueSteps), layout.valueAddress),
        token.set(i32.add(token, 4)),
        keyAddress.set(i32.add(keyAddress, i32.shl(argument(c.args, attentionArgs.keyToken), 2))),
        valueAddress.set(i32.add(valueAddress, i32.shl(argument(c.args, attentionArgs.valueToken), 2))),
      ]),
    ];
  };
  const anyCopied = isCopied(plan.keyFormat, plan.headDimQk) || isCopied(plan.valueFormat, plan.headDimV);
  return [
    pageSize.set(argument(c.args, attentionArgs.pageSize)),
    table.set(i32.add(argument(c.args, attentionArgs.blockTable), i32.shl(i32.mul(c.sequence, argument(c.args, attentionArgs.maxPagesPerSequence)), 2))),
    keyBase.set(i32.add(argument(c.args, attentionArgs.key), i32.mul(c.head, argument(c.args, attentionArgs.keyHead)))),
    valueBase.set(i32.add(argument(c.args, attentionArgs.value), i32.mul(c.head, argument(c.args, attentionArgs.valueHead)))),
    last.set(i32.sub(i32.sub(c.kvLength, c.kv0), 1)),
    page.set(i32.add(table, i32.shl(i32.div_u(c.kv0, pageSize), 2))),
    token.set(i32.rem_u(c.kv0, pageSize)),
    ...openPage(),
    anyCopied ? oneByOne : when(i32.and(i32.eqz(i32.and(pageSize, 3)), i32.ge_s(last, plan.kvTile - 1)), fourByFour(), [oneByOne]),
  ];
}

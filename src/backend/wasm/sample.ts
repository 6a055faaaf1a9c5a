/**
 * Logits -> tokens: `sample`, and `sampleRuled` for rows that are changed first.
 *
 * A row is one piece of work. Greedy rows are read once; what else a choice asks for is a prefix of the row's order (prefix.ts). A row of which only
 * some tokens may be chosen becomes one of those alone. Knows no ops and no buffers.
 */
import { greatestFloat32 } from "../../core/dtype.ts";
import { choiceWord, editWord, ruleWord } from "../backend.ts";
import { block, branchIf, call, constant, f32, f64, forRange, i32, i64, leave, when, type Func, type Local, type Module, type Node } from "./assembler.ts";
import { argument, forEachClaimed, kernel, scratchAddress } from "./kernel.ts";
import type { LogitRows } from "./logit-rows.ts";
import { massBits } from "./masses.ts";
import { addPrefixes } from "./prefix.ts";
import { rowAddress, rowCount, rowWords } from "./rows.ts";

/** out[r] = the token of row r of the logits. choices, out: addresses; stride and columns in elements. */
export const sampleArgs = { ...rowWords, out: 2, logits: 3, stride: 4, columns: 5, choices: 6 } as const;
/** The same for row rules[i].row of as many records as the header counts. scratch: f32, one for each edit. */
export const sampleRuledArgs = { ...sampleArgs, rules: 7, edits: 8, scratch: 9 } as const;

/** Adds both kernels. */
export function sampling(m: Module, rows: LogitRows): void {
  const choose = addChoose(m, rows), edit = addEdit(m);
  const choiceOf = (args: Local, row: Local): Node => i32.add(argument(args, sampleArgs.choices), i32.mul(row, 4 * choiceWord.words));
  const outOf = (args: Local, row: Local): Node => i32.add(argument(args, sampleArgs.out), i32.shl(row, 2));
  const logitsOf = (args: Local, row: Local): Node => rowAddress(argument(args, sampleArgs.logits), row, argument(args, sampleArgs.stride));

  kernel(m, "sample", (args, thread, local) => {
    const row = local("i32", "row"), count = local("i32", "count"), choice = local("i32", "choice"), bytes = local("i32", "bytes");
    return [
      count.set(rowCount(args)),
      bytes.set(i32.shl(argument(args, sampleArgs.columns), 2)),
      forEachClaimed(row, count, [
        choice.set(choiceOf(args, row)),
        when(i32.eqz(i32.load(choice, 4 * choiceWord.skip)), [
          i32.store(outOf(args, row), i32.shr_s(call(choose, logitsOf(args, row), bytes, choice, scratchAddress(thread)), 2)),
        ]),
      ]),
    ];
  });

  kernel(m, "sampleRuled", (args, thread, local) => {
    const i = (name: string): Local => local("i32", name), record = i("record"), count = i("count"), rule = i("rule"), row = i("row"), logits = i("logits"), bytes = i("bytes");
    const edits = i("edits"), kept = i("kept"), numEdits = i("numEdits"), onlyEdited = i("onlyEdited"), at = i("at"), found = i("found"), token = i("token");
    /** For each edit: its logit's address in `logits`, and of the word that is its own in the scratch. */
    const eachEdit = (body: (logit: Node, word: Node) => readonly Node[]): Node => forRange(at, 0, numEdits, 1, body(
      i32.add(logits, i32.shl(i32.load(i32.add(edits, i32.mul(at, 4 * editWord.words)), 4 * editWord.token), 2)), i32.add(kept, i32.shl(at, 2)),
    ));
    const edited = (logit: Node): Node => call(edit, logit, i32.add(edits, i32.mul(at, 4 * editWord.words)), rule);
    const logit = i("logit");
    const chosen = (from: Local, length: Node): Node => call(choose, from, length, choiceOf(args, row), scratchAddress(thread));
    return [
      count.set(rowCount(args)),
      bytes.set(i32.shl(argument(args, sampleRuledArgs.columns), 2)),
      forEachClaimed(record, count, [
        rule.set(i32.add(argument(args, sampleRuledArgs.rules), i32.mul(record, 4 * ruleWord.words))),
        row.set(i32.load(rule, 4 * ruleWord.row)),
        logits.set(logitsOf(args, row)),
        numEdits.set(i32.load(rule, 4 * ruleWord.numEdits)),
        onlyEdited.set(i32.load(rule, 4 * ruleWord.onlyEdited)),
        edits.set(i32.add(argument(args, sampleRuledArgs.edits), i32.mul(i32.load(rule, 4 * ruleWord.firstEdit), 4 * editWord.words))),
        kept.set(i32.add(argument(args, sampleRuledArgs.scratch), i32.shl(i32.load(rule, 4 * ruleWord.firstEdit), 2))),
        token.set(-1),
        block("no_distribution", (end) => [
          branchIf(end, i32.lt_s(call(rows.largest, logits, bytes), 0)),
          when(onlyEdited, [
            eachEdit((from, word) => [f32.store(word, edited(f32.load(from)))]),
            found.set(chosen(kept, i32.shl(numEdits, 2))),
          ], [
            eachEdit((from, word) => [logit.set(from), f32.store(word, f32.load(logit)), f32.store(logit, edited(f32.load(logit)))]),
            found.set(chosen(logits, bytes.get)),
            eachEdit((to, word) => [f32.store(to, f32.load(word))]),
          ]),
          token.set(-2),
          branchIf(end, i32.lt_s(found, 0)),
          token.set(i32.shr_u(found, 2)),
          when(onlyEdited, [token.set(i32.load(i32.add(edits, i32.mul(token, 4 * editWord.words)), 4 * editWord.token))]),
        ]),
        i32.store(outOf(args, row), token),
      ]),
    ];
  });
}

/** (row, bytes, choice, scratch): the offset of the logit that a record of choices picks, -1 where the row is no distribution. */
function addChoose(m: Module, rows: LogitRows): Func {
  const prefix = addPrefixes(m, rows);
  return m.func("choose", { row: "i32", bytes: "i32", choice: "i32", scratch: "i32" }, "i32", ({ row, bytes, choice, scratch }, local) => {
    const best = local("i32", "best"), topK = local("i32", "topK"), largest = local("f64", "largest"), rate = local("f64", "rate"), minMass = local("i64", "minMass");
    const number = (word: number): Node => f64.load(choice, 4 * word);
    const ranked = [row, bytes, scratch, largest, rate] as const;
    return [
      best.set(call(rows.largest, row, bytes)),
      when(i32.or(i32.lt_s(best, 0), f64.eq(number(choiceWord.temperature), 0)), [leave(best.get)]),
      largest.set(f64.add(f64.promote_f32(f32.load(i32.add(row, best))), 0)), // no -0, by whose sign a difference of 0 would have one
      // Finite, so that the largest has a mass at any temperature.
      rate.set(f64.min(f64.div(Math.LOG2E, number(choiceWord.temperature)), 2 ** 1000)),
      minMass.set(i64.trunc_sat_f64_u(f64.ceil(f64.mul(number(choiceWord.minP), 2 ** massBits)))),
      call(prefix.start, ...ranked, minMass),
      topK.set(i32.load(choice, 4 * choiceWord.topK)),
      when(i32.and(i32.gt_s(topK, 0), i32.lt_s(topK, i32.shr_u(bytes, 2))), [call(prefix.byCount, ...ranked, topK)]),
      when(f64.lt(number(choiceWord.topP), 1), [call(prefix.byMass, ...ranked, number(choiceWord.topP))]),
      call(prefix.draw, ...ranked, number(choiceWord.uniform)),
    ];
  }, { internal: true });
}

/** (logit, edit, rule): the new logit, in doubles and in the order that the contract has, rounded once. */
function addEdit(m: Module): Func {
  return m.func("editedLogit", { logit: "f32", edit: "i32", rule: "i32" }, "f32", ({ logit, edit, rule }, local) => {
    const x = local("f64", "x"), bias = local("f64", "bias"), count = local("i32", "count");
    const penalty = (word: number): Node => f64.load(rule, 4 * word);
    return [
      bias.set(f64.load(edit, 4 * editWord.bias)),
      when(f64.eq(bias, -Infinity), [leave(constant("f32", -Infinity))]),
      count.set(i32.load(edit, 4 * editWord.count)),
      x.set(f64.add(f64.promote_f32(logit), bias)),
      when(i32.ge_s(count, 0), [
        when(f64.gt(x, 0), [x.set(f64.div(x, penalty(ruleWord.repetition)))], [x.set(f64.mul(x, penalty(ruleWord.repetition)))]),
      ]),
      when(i32.gt_s(count, 0), [
        x.set(f64.sub(f64.sub(x, f64.mul(penalty(ruleWord.frequency), f64.convert_i32_s(count))), penalty(ruleWord.presence))),
      ]),
      when(f32.lt(f32.abs(logit), Infinity), [x.set(f64.min(f64.max(x, -greatestFloat32), greatestFloat32))]),
      f32.demote_f64(x),
    ];
  }, { internal: true });
}

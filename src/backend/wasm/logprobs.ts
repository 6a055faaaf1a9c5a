/**
 * Log-probabilities of rows of logits: one pass adds up what is likely, another finds the likeliest.
 *
 * A row is one piece of work. The order of its sum: logits j and j + 1 of four, j from 0, into the lanes of one accumulator and j + 2 and j + 3 into
 * those of another, ascending; then the first and the second, then their lanes. Knows no ops and no buffers.
 */
import { answerWord, mostTop, questionWord } from "../backend.ts";
import { block, branch, branchIf, call, f32, f32x4, f64, f64x2, forRange, i32, i32x4, i64, leave, loop, v128, when, type Func, type Local, type Module, type Node } from "./assembler.ts";
import { argument, forEachClaimed, kernel } from "./kernel.ts";
import type { LogitRows } from "./logit-rows.ts";
import { powerOfTwo } from "./masses.ts";
import { half, KeptConstants, type MathLibrary } from "./math.ts";
import { least, rowAddress, rowCount, rowWords } from "./rows.ts";

/** out[i] = the answer to question i of as many as the header counts. questions, sampled, out: addresses; stride and columns in elements. */
export const logprobsArgs = { ...rowWords, out: 2, logits: 3, stride: 4, columns: 5, questions: 6, sampled: 7 } as const;

/** Whatever is less likely than the likeliest by more octaves counts as this: 2^18 such logits are lost beside it. */
const octaves = 80;

/** Adds `logprobs`. */
export function logprobs(m: Module, math: MathLibrary, rows: LogitRows): void {
  const sum = addSum(m, rows), top = addTop(m, rows);
  kernel(m, "logprobs", (args, _thread, local) => {
    const i = (name: string): Local => local("i32", name), question = i("question"), count = i("count"), asked = i("asked"), answer = i("answer"), row = i("row"), bytes = i("bytes");
    const token = i("token"), best = i("best"), logits = i("logits"), largest = local("f64", "largest");
    return [
      count.set(rowCount(args)),
      bytes.set(i32.shl(argument(args, logprobsArgs.columns), 2)),
      forEachClaimed(question, count, [block("answered", (end) => [
        asked.set(i32.add(argument(args, logprobsArgs.questions), i32.mul(question, 4 * questionWord.words))),
        answer.set(i32.add(argument(args, logprobsArgs.out), i32.mul(question, 4 * answerWord.words))),
        row.set(i32.load(asked, 4 * questionWord.row)),
        logits.set(rowAddress(argument(args, logprobsArgs.logits), row, argument(args, logprobsArgs.stride))),
        token.set(i32.load(asked, 4 * questionWord.token)),
        when(i32.lt_s(token, 0), [token.set(i32.load(i32.add(argument(args, logprobsArgs.sampled), i32.shl(row, 2))))]),
        i32.store(answer, 0, 4 * answerWord.rank),
        branchIf(end, i32.lt_s(token, 0)),
        best.set(call(rows.largest, logits, bytes)),
        branchIf(end, i32.lt_s(best, 0)),
        largest.set(f64.promote_f32(f32.load(i32.add(logits, best)))),
        f32.store(answer, f32.load(i32.add(logits, i32.shl(token, 2))), 4 * answerWord.logit),
        f64.store(answer, f64.add(largest, f64x2.extract_lane(math.call("log_f64x2", f64x2.splat(call(sum, logits, bytes, largest, answer))), 0)), 4 * answerWord.logSum),
        call(top, logits, bytes, i32.add(answer, 4 * answerWord.top), i32.load(asked, 4 * questionWord.numTop)),
      ])]),
    ];
  });
}

/** (row, bytes, largest, answer): the sum of exp(logit - largest); the rank of the answer's logit is written to it on the way. */
function addSum(m: Module, rows: LogitRows): Func {
  return m.func("sumOfRow", { row: "i32", bytes: "i32", largest: "f64", answer: "i32" }, "f64", ({ row, bytes, largest, answer }, local) => {
    const v = (name: string): Local => local("v128", name), zero = local("i32", "zero"), constants = new KeptConstants(local);
    const tops = v("largests"), own = v("own"), above = v("above"), t = v("octaves"), power = v("power"), sum = [v("sumLow"), v("sumHigh")];
    const lane = (i: number): Node => i32x4.extract_lane(above, i);
    const walk = rows.over(local, row, 0, bytes, 1, ([x]) => [
      above.set(i32x4.sub(above, f32x4.gt(x!, own))),
      ...sum.flatMap((s, i) => [
        t.set(f64x2.pmax(f64x2.mul(f64x2.sub(half(x!, i === 1), tops), constants.f64(Math.LOG2E)), constants.f64(-octaves))),
        ...powerOfTwo(local, t, power, constants.f64),
        s.set(f64x2.add(s, power)),
      ]),
    ]);
    return [
      zero.set(i32.shr_u(bytes, 31)),
      ...constants.code(zero),
      tops.set(f64x2.splat(largest)),
      own.set(v128.load32_splat(answer, 4 * answerWord.logit)),
      ...walk,
      i32.store(answer, i32.add(i32.add(i32.add(lane(0), lane(1)), i32.add(lane(2), lane(3))), 1), 4 * answerWord.rank),
      t.set(f64x2.add(sum[0]!, sum[1]!)),
      f64.add(f64x2.extract_lane(t, 0), f64x2.extract_lane(t, 1)),
    ];
  }, { internal: true });
}

/** (row, bytes, to, numTop): pairs of token and logit of the likeliest, by logit, equal ones by lowest id. Once there are as many, few logits pass the last. */
function addTop(m: Module, rows: LogitRows): Func {
  const insert = m.func("insertTop", { to: "i32", place: "i32", token: "i32", logit: "f32" }, "none", ({ to, place, token, logit }, local) => {
    const at = local("i32", "at");
    return [
      at.set(i32.add(to, i32.shl(place, 3))),
      block("in_place", (end) => [loop("move", (next) => [
        branchIf(end, i32.eq(at, to)),
        branchIf(end, i32.eqz(f32.gt(logit, f32.load(i32.sub(at, 4))))),
        i64.store(at, i64.load(i32.sub(at, 8))),
        at.set(i32.sub(at, 8)),
        branch(next),
      ])]),
      i32.store(at, token),
      f32.store(at, logit, 4),
    ];
  }, { internal: true });
  return m.func("topOfRow", { row: "i32", bytes: "i32", to: "i32", numTop: "i32" }, "none", ({ row, bytes, to, numTop }, local) => {
    const at = local("i32", "at"), last = local("i32", "last"), end = local("i32", "passedEnd"), bound = local("v128", "bound");
    const logit = (): Node => f32.load(i32.add(row, at)), bar = (): Node => f32.load(i32.add(to, i32.shl(last, 3)), 4);
    return [
      numTop.set(i32.shl(least(least(numTop, mostTop), i32.shr_u(bytes, 2)), 2)),
      when(i32.le_s(numTop, 0), [leave()]),
      forRange(at, 0, numTop, 4, [call(insert, to, i32.shr_u(at, 2), i32.shr_u(at, 2), logit())]),
      last.set(i32.sub(i32.shr_u(numTop, 2), 1)),
      bound.set(f32x4.splat(bar())),
      ...rows.over(local, row, numTop, bytes, 4, (x, i) => [
        when(v128.any_true(x.map((v) => f32x4.gt(v, bound)).reduce((a, b) => v128.or(a, b))), [
          end.set(least(i32.add(i, 16 * x.length), bytes)),
          forRange(at, i, end, 4, [when(f32.gt(logit(), bar()), [call(insert, to, last, i32.shr_u(at, 2), logit())])]),
          bound.set(f32x4.splat(bar())),
        ]),
      ]),
    ];
  }, { internal: true });
}

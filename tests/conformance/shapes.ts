/** The shapes of the list: one of each kind for `npm test`, all of them for `npm run conform`. */
import { denseSequences, type Form, sequence, type Shape } from "./case.ts";

export interface Launch {
  readonly name: string;
  readonly shape: Shape;
  readonly form: Form;
}

const denseShape = (over: Partial<Shape> & { readonly batch?: number; readonly L?: number; readonly S?: number }): Shape => {
  const { batch = 1, L = 33, S = 101, ...rest } = over;
  return { heads: 4, kvHeads: 2, dim: 16, valueDim: 12, sequences: denseSequences(batch, L, S), ...rest };
};
const dense = (name: string, over: Parameters<typeof denseShape>[0]): Launch => ({ name, shape: denseShape(over), form: { kind: "dense" } });

/** Prefill, decode, a chunk and a speculative run in one batch; the first two share their first 80 tokens. */
function ragged(over: Partial<Shape> = {}): Shape {
  const first = sequence(0, 1, 141), second = sequence(1, 9, 100);
  return {
    heads: 4, kvHeads: 2, dim: 16, valueDim: 12, ...over,
    sequences: [first, { ...second, key: (t) => (t < 80 ? first.key(t) : second.key(t)) }, sequence(2, 5, 69), sequence(3, 20, 20), sequence(4, 0, 9)],
  };
}

const pageSizes = [16, 1, 8, 32, 64, 128, 256, 7] as const;

export function quickShapes(nth: number): readonly Launch[] {
  return [dense("L 33, S 101", {}), ...pagedShapes(nth)];
}

export function pagedShapes(nth: number): readonly Launch[] {
  const pageSize = pageSizes[nth % pageSizes.length]!;
  return [{ name: `pages of ${pageSize}`, shape: ragged(), form: { kind: "paged", pageSize } }];
}

/** List 6, one dimension walked at a time. */
export function allShapes(): readonly Launch[] {
  const lengths = [[1, 1], [2, 2], [1, 127], [127, 128], [128, 128], [129, 129], [255, 129], [129, 255], [16, 1024], [1025, 1025], [1, 2048], [2048, 2048]] as const;
  const dims = [[16, 16], [32, 32], [64, 64], [72, 72], [80, 80], [96, 96], [128, 128], [192, 128], [256, 256]] as const;
  const heads = [[1, 1], [2, 1], [4, 1], [6, 1], [7, 1], [8, 2], [16, 1], [12, 2], [3, 3]] as const;
  return [
    ...lengths.map(([L, S]) => dense(`L ${L}, S ${S}`, { L, S, heads: 2, kvHeads: 1, dim: 32, valueDim: 32 })),
    ...dims.map(([dim, valueDim]) => dense(`head dims ${dim}, ${valueDim}`, { dim, valueDim, L: 65, S: 97 })),
    ...heads.map(([h, kvHeads]) => dense(`${h} heads over ${kvHeads}`, { heads: h, kvHeads, L: 40, S: 70 })),
    dense("batch 3", { batch: 3, L: 40, S: 70 }),
    ...pageSizes.map((pageSize): Launch => ({ name: `pages of ${pageSize}`, shape: ragged(), form: { kind: "paged", pageSize } })),
    ...[1, 2, 3, 5, 8, 16].map((rows): Launch => ({
      name: `${rows} rows after 200`, shape: { ...ragged({ dim: 64, valueDim: 64, heads: 7, kvHeads: 1 }), sequences: [sequence(0, rows, 200 + rows), sequence(1, rows, 31 + rows)] }, form: { kind: "paged", pageSize: 16 },
    })),
    { name: "a long ragged batch", shape: { ...ragged(), sequences: [sequence(0, 1, 2047), sequence(1, 130, 1100), sequence(2, 257, 257)] }, form: { kind: "paged", pageSize: 64 } },
  ];
}

/** Blocks that masks are classified in; the small ones have a corner everywhere that an edge may be off by one. In the first ones a tight mask leaves none open without need; in the others, whose edges fall anywhere, it may. */
export const blockSizes: { readonly tight: readonly (readonly [query: number, kv: number])[]; readonly any: readonly (readonly [query: number, kv: number])[] } = {
  tight: [[32, 32], [16, 16], [64, 16]], any: [[20, 50], [128, 128], [16, 256], [3, 5], [1, 7]],
};

/**
 * How a text is cut into words before the model sees it: the "pre_tokenizer" of a tokenizer.json as one function.
 *
 * The rules that the library (@huggingface/tokenizers 0.2.0) gets wrong are written here, and only those:
 * Split ignores four of its five behaviours; Metaspace never splits, and gives its prefix to every piece between two
 * normalised added tokens; Digits knows ASCII only; Punctuation never isolates;
 * ByteLevel, Whitespace and WhitespaceSplit use JavaScript's \s and \w, which are not Unicode's.
 */
import { Tokenizer as Library } from "@huggingface/tokenizers";
import type { Json } from "./files.ts";
import { field, list, rowOf, text } from "./files.ts";

/** Cuts `piece` into words. `first`: the piece stands at the very start of the text. */
export type PreTokenizer = (piece: string, first: boolean) => readonly string[];

/** A part of a text, and whether the pattern matched it. */
interface Span {
  readonly text: string;
  readonly match: boolean;
}

/** What becomes of the delimiters: the five of the original. */
const behaviours: Readonly<Record<string, (spans: readonly Span[]) => string[]>> = {
  removed: (spans) => spans.filter((span) => !span.match).map((span) => span.text),
  isolated: (spans) => spans.map((span) => span.text),
  contiguous: (spans) => {
    const out: string[] = [];
    spans.forEach((span, i) => {
      if (i > 0 && spans[i - 1]!.match === span.match) out[out.length - 1] += span.text;
      else out.push(span.text);
    });
    return out;
  },
  mergedwithprevious: (spans) => {
    const out: string[] = [];
    spans.forEach((span, i) => {
      if (span.match && i > 0 && !spans[i - 1]!.match) out[out.length - 1] += span.text;
      else out.push(span.text);
    });
    return out;
  },
  mergedwithnext: (spans) => {
    const out: string[] = [];
    spans.forEach((span, i) => {
      if (!span.match && i > 0 && spans[i - 1]!.match) out[out.length - 1] += span.text;
      else out.push(span.text);
    });
    return out;
  },
};

function spansOf(piece: string, pattern: RegExp): Span[] {
  const spans: Span[] = [];
  let end = 0;
  for (const found of piece.matchAll(pattern)) {
    if (found[0].length === 0) continue;
    if (found.index > end) spans.push({ text: piece.slice(end, found.index), match: false });
    spans.push({ text: found[0], match: true });
    end = found.index + found[0].length;
  }
  if (end < piece.length) spans.push({ text: piece.slice(end), match: false });
  return spans;
}

function splitter(pattern: RegExp, behaviour: string, invert = false): PreTokenizer {
  const join = rowOf(behaviours, behaviour.toLowerCase());
  if (join === undefined) throw new Error(`pre_tokenizer: unknown behavior "${behaviour}"`);
  return (piece) => join(invert ? spansOf(piece, pattern).map((span) => ({ ...span, match: !span.match })) : spansOf(piece, pattern));
}

const gpt2 = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const punctuation = /[!-/:-@[-`{-~\p{P}]/gu;

const utf8 = new TextEncoder();

/** byte -> the printable character that stands for it in a byte-level vocabulary (GPT-2's table). */
export const byteChars: readonly string[] = (() => {
  const chars: string[] = [];
  let spare = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    chars.push(String.fromCharCode(printable ? byte : spare++));
  }
  return chars;
})();

function byteLevel(word: string): string {
  let out = "";
  for (const byte of utf8.encode(word)) out += byteChars[byte]!;
  return out;
}

type Build = (config: Json) => PreTokenizer;

const own: Readonly<Record<string, Build>> = {
  Sequence: (config) => {
    const steps = list(config, "pretokenizers").map(preTokenizer);
    return (piece, first) => steps.reduce<readonly string[]>((words, step) => words.flatMap((word, i) => step(word, first && i === 0)), [piece]);
  },
  Split: (config) => splitter(patternOf(config), text(config, "behavior") ?? "Isolated", field(config, "invert") === true),
  Digits: (config) => splitter(/\p{N}/gu, field(config, "individual_digits") === true ? "Isolated" : "Contiguous"),
  WhitespaceSplit: () => splitter(/\p{White_Space}+/gu, "Removed"),
  Whitespace: () => splitter(/[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{White_Space}]+/gu, "Removed", true),
  Punctuation: (config) => splitter(punctuation, text(config, "behavior") ?? "Isolated"),
  Metaspace: (config) => {
    const mark = text(config, "replacement") ?? "▁";
    // Older files say add_prefix_space where newer ones say prepend_scheme.
    const scheme = text(config, "prepend_scheme") ?? (field(config, "add_prefix_space") === false ? "never" : "always");
    const pattern = new RegExp(mark.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "gu");
    const split = field(config, "split") === false ? undefined : splitter(pattern, "MergedWithNext");
    return (piece, first) => {
      const marked = piece.replaceAll(" ", mark);
      const prefix = !marked.startsWith(mark) && (scheme === "always" || (scheme === "first" && first));
      const whole = prefix ? mark + marked : marked;
      return split === undefined ? [whole] : split(whole, first);
    };
  },
  ByteLevel: (config) => {
    const prefix = field(config, "add_prefix_space") === true;
    const cut = field(config, "use_regex") === false ? undefined : splitter(gpt2, "Isolated");
    return (piece, first) => {
      const whole = prefix && !piece.startsWith(" ") ? ` ${piece}` : piece;
      return (cut === undefined ? [whole] : cut(whole, first)).map(byteLevel);
    };
  },
};

/** The pattern of a Split, translated from Oniguruma by the library. */
function patternOf(config: Json): RegExp {
  const built = libraryPart({ ...(config as object), invert: false }) as unknown as { readonly pattern: RegExp | null };
  if (built.pattern === null) throw new Error("pre_tokenizer: a Split has neither a String nor a Regex as its pattern");
  return built.pattern;
}

function libraryPart(config: Json): (piece: string) => string[] {
  const holder = new Library(
    { model: { type: "BPE", vocab: {}, merges: [] }, added_tokens: [], normalizer: null, post_processor: null, decoder: null, pre_tokenizer: config },
    {},
  );
  return holder.pre_tokenizer as unknown as (piece: string) => string[];
}

/** The function for `config`; null gives each piece as one word. Throws on a type or behaviour that is not known. */
export function preTokenizer(config: Json): PreTokenizer {
  if (config === null || config === undefined) return (piece) => [piece];
  const build = rowOf(own, text(config, "type") ?? "");
  if (build !== undefined) return build(config);
  const part = libraryPart(config);
  return (piece) => part(piece);
}

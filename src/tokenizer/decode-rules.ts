/**
 * The "decoder" of a tokenizer.json as a rule for one token at a time: token -> bytes, plus what is cut from the ends of the
 * whole text. Every decoder that can be said this way can be streamed; one that cannot is refused by name.
 *
 * One difference from Hugging Face, on purpose: bytes that are no valid UTF-8 become U+FFFD as every UTF-8 decoder does it,
 * where its ByteFallback turns a whole run of byte tokens into U+FFFD when any part is wrong. That rule would hold back
 * every Chinese sentence written in byte tokens until the run ends.
 */
import { clipped, UsageError } from "../core/errors.ts";
import type { Json } from "./files.ts";
import { field, list, rowOf, text } from "./files.ts";
import { byteChars } from "./pre-tokenizer.ts";

type Piece = string | Uint8Array;
/** `first`: no token comes before this one in the text. */
type Step = (piece: string, first: boolean) => Piece;

/** Up to `start` (`stop`) times `char` is cut from the start (end) of the whole text. */
export interface Ends {
  readonly char: string;
  readonly start: number;
  readonly stop: number;
}

export interface DecodeRules {
  /** The UTF-8 bytes that `token` adds. */
  readonly bytes: (token: string, first: boolean) => Uint8Array;
  readonly ends: Ends;
}

const utf8 = new TextEncoder();
const charBytes = new Map(byteChars.map((char, byte) => [char, byte]));

/** What WordPiece's decoder tidies after joining. */
const cleanups: readonly (readonly [string, string])[] = [
  [" .", "."], [" ?", "?"], [" !", "!"], [" ,", ","], [" ' ", "'"], [" n't", "n't"],
  [" 'm", "'m"], [" do not", " don't"], [" 's", "'s"], [" 've", "'ve"], [" 're", "'re"],
];

function byteLevel(piece: string): Piece {
  const bytes = new Uint8Array(piece.length);
  for (let i = 0; i < piece.length; i++) {
    const byte = charBytes.get(piece[i]!);
    // An added token with a character that stands for no byte is plain text.
    if (byte === undefined) return piece;
    bytes[i] = byte;
  }
  return bytes;
}

function byteFallback(piece: string): Piece {
  const found = /^<0x([0-9A-Fa-f]{2})>$/.exec(piece);
  return found === null ? piece : Uint8Array.of(Number.parseInt(found[1]!, 16));
}

function strip(piece: string, ends: Ends): string {
  let start = 0, stop = piece.length;
  while (start < ends.start && piece[start] === ends.char) start++;
  while (stop > start && piece.length - stop < ends.stop && piece[stop - 1] === ends.char) stop--;
  return piece.slice(start, stop);
}

function endsOf(config: Json): Ends {
  return { char: text(config, "content") ?? " ", start: Number(field(config, "start") ?? 0), stop: Number(field(config, "stop") ?? 0) };
}

function replacer(config: Json): (piece: string) => string {
  const pattern = field(config, "pattern"), content = text(config, "content") ?? "";
  const literal = text(pattern, "String");
  // Decoding has no thread and no limit on time of its own, as encoding has: it runs no pattern of a stranger's.
  if (literal === undefined) throw new UsageError("tokenizer.json: decoder Replace has no String as its pattern, and others are not supported; serve this model with --skip-tokenizer-init, by token ids");
  return (piece) => piece.replaceAll(literal, () => content);
}

const steps: Readonly<Record<string, (config: Json) => Step>> = {
  ByteLevel: () => byteLevel,
  ByteFallback: () => byteFallback,
  Replace: replacer,
  Strip: (config) => (piece) => strip(piece, endsOf(config)),
  Metaspace: (config) => {
    const mark = text(config, "replacement") ?? "▁";
    const keep = text(config, "prepend_scheme") === "never" || field(config, "add_prefix_space") === false;
    return (piece, first) => piece.replaceAll(mark, first && !keep ? "" : " ");
  },
  WordPiece: (config) => {
    const prefix = text(config, "prefix") ?? "##", cleanup = field(config, "cleanup") !== false;
    return (piece, first) => {
      const joined = first ? piece : piece.startsWith(prefix) ? piece.slice(prefix.length) : ` ${piece}`;
      return cleanup ? cleanups.reduce((whole, [from, to]) => whole.replaceAll(from, to), joined) : joined;
    };
  },
  BPEDecoder: (config) => {
    const suffix = text(config, "suffix") ?? "</w>";
    return (piece) => piece.replaceAll(suffix, " ");
  },
};

const none: Ends = { char: " ", start: 0, stop: 0 };

/** The rules for `config`; null joins tokens with spaces. Throws UsageError on a decoder that is not known or cannot be streamed. */
export function decodeRules(config: Json): DecodeRules {
  if (config === null || config === undefined) return rules([(piece, first) => (first ? piece : ` ${piece}`)], none);
  const chain = text(config, "type") === "Sequence" ? list(config, "decoders") : [config];
  const perToken: Step[] = [];
  let ends = none;
  let fused = false;
  for (const part of chain) {
    const type = text(part, "type") ?? "", step = rowOf(steps, type);
    if (type === "Fuse") fused = true;
    else if (fused && type === "Strip") ends = endsOf(part);
    else if (step === undefined || (fused && !(type === "Replace" && text(field(part, "pattern"), "String")?.length === 1))) {
      const what = `decoder ${clipped(type)}${fused ? " after Fuse" : ""}`;
      throw new UsageError(`tokenizer.json: ${what} is not supported; serve this model with --skip-tokenizer-init, by token ids`);
    } else {
      // The last token's suffix stands for nothing: cut from the end what the step wrote there.
      if (type === "BPEDecoder") ends = { char: " ", start: 0, stop: 1 };
      perToken.push(step(part));
    }
  }
  return rules(perToken, ends);
}

function rules(chain: readonly Step[], ends: Ends): DecodeRules {
  return {
    ends,
    bytes: (token, first) => {
      let piece: Piece = token;
      for (const step of chain) if (typeof piece === "string") piece = step(piece, first);
      return typeof piece === "string" ? utf8.encode(piece) : piece;
    },
  };
}

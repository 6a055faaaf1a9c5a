/** Errors as the command line says them: a flag's name where a library or a parser of flags has its own words. Text to text. */
import { flagOf } from "./options.ts";

/** What commander says, in our words. What is not here is kept as it is. */
const phrases: readonly (readonly [theirs: RegExp, ours: string])[] = [
  [/^option '(?:-\w, )?(--[\w-]+)[^']*' argument '([^']*)' is invalid\. it must/, "$1 is $2; it must"],
  [/^option '(?:-\w, )?(--[\w-]+)[^']*' argument '([^']*)' is invalid\. Allowed choices are (.*)\.$/, "$1 is $2; it must be one of $3."],
  [/^option '(?:-\w, )?(--[\w-]+)[^']*' argument missing/, "$1 needs a value."],
  [/^unknown option '(.*)'/, "there is no flag $1."],
  [/^unknown command '(.*)'/, "there is no command $1."],
  [/^missing required argument '(.*)'/, "the argument <$1> is missing."],
  [/^too many arguments for '(.*)'\. Expected (\d+) arguments? but got (\d+): (.*)\.$/, "$1 takes at most $2 argument, but got $3: $4; put a text with spaces in quotes."],
];

/** commander's "error: unknown option '--foo'\n(Did you mean --bar?)" as a sentence on one line. */
export function sentence(text: string): string {
  const [first = "", ...rest] = text.trim().replace(/^error: /, "").split("\n");
  const [theirs, ours] = phrases.find(([pattern]) => pattern.test(first)) ?? [];
  return [theirs ? first.replace(theirs, ours!) : first, ...rest.map((line) => line.replace(/^\((.*)\)$/, "$1"))].join(" ");
}

/** "maxNumSeqs (--max-num-seqs) is -1": the library names both; here the flag is enough, with the field of it that is meant. */
export function flagNames(message: string): string {
  return message.replaceAll(/\b(\w+)(?:\.\w+)? \((--[a-z-]+)((?: \w+)?)\)/g, (both, name: string, flag: string, field: string) => (flagOf(name) === flag || name === "kvCacheBytes" ? flag + field : both));
}

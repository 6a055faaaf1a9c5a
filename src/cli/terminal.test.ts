import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { converse, type Ask } from "./chat.ts";
import { MessageLines, openTerminal } from "./terminal.ts";

const enter = "\r", ctrlC = "\x03", ctrlD = "\x04";
const longer = 40; // than lines of one paste are apart, in ms

/** A conversation at a terminal of strings. An answer says "so: " and waits until the test ends it, or it is cancelled. */
function sit(columns = 80) {
  const stdin = Object.assign(new PassThrough(), { isTTY: true, setRawMode: (on: boolean) => void (raw = on) });
  const stdout = Object.assign(new PassThrough(), { isTTY: true, columns });
  let raw = false;
  let screen = "";
  stdout.on("data", (data) => (screen += String(data)));
  const asked: string[] = [];
  const cancelled: string[] = [];
  let end: (rest: string) => void = () => {};
  const ask: Ask = (turns) => {
    const said = turns.at(-1)!.content;
    asked.push(said);
    const rest = new Promise<string | undefined>((resolve) => (end = resolve, cancel = () => (cancelled.push(said), resolve(undefined))));
    const result = { text: "so: ", tokenIds: [1], finishReason: "stop", usage: { promptTokens: 1, completionTokens: 1, totalTokens: 2 }, promptTokenIds: [] };
    return {
      async *[Symbol.asyncIterator]() {
        yield { text: "so: ", tokens: [1] };
        yield { text: (await rest) ?? "", tokens: [1] };
      },
      then: (resolve: (value: unknown) => unknown) => Promise.resolve(result).then(resolve),
      cancel: () => cancel(),
    } as unknown as ReturnType<Ask>;
  };
  let cancel = () => {};
  const terminal = openTerminal(stdin, stdout, new PassThrough());
  const over = converse(ask, terminal).finally(() => terminal.close());
  return {
    asked, cancelled, over, screen: () => screen, raw: () => raw,
    async type(...pieces: readonly string[]) {
      for (const piece of pieces) {
        stdin.write(piece);
        await sleep(longer);
      }
    },
    async answer(rest = "") {
      end(rest);
      await sleep(longer);
    },
  };
}

const within = <T>(promise: Promise<T>): Promise<T> => Promise.race([promise, sleep(2000).then(() => assert.fail("it still waits"))]);

test("Ctrl-D during an answer cancels it and leaves, with the terminal as it was", async () => {
  const { type, asked, cancelled, over, raw, screen } = sit();
  await type("hi" + enter);
  assert.equal(raw(), true);
  await type(ctrlD);
  await within(over);
  assert.deepEqual([asked, cancelled, raw()], [["hi"], ["hi"], false]);
  assert.ok(screen().includes("\x1b[?2004h") && screen().includes("\x1b[?2004l"));
});

test("what is typed during an answer is not shown in it, and stands at the next prompt", async () => {
  const { type, answer, asked, screen, over } = sit();
  await type("hi" + enter);
  const before = screen().length;
  await type("ne", "xt");
  assert.equal(screen().slice(before), "");
  await answer("done.");
  const shown = screen().slice(before);
  assert.ok(shown.indexOf("next") > shown.indexOf("done."), shown);
  assert.deepEqual(asked, ["hi"]);
  await type(enter);
  assert.deepEqual(asked, ["hi", "next"]);
  await answer();
  await type("/exit" + enter);
  await within(over);
});

test("Ctrl-C ends an answer, clears a line, and leaves from an empty prompt when it is pressed twice", async () => {
  const { type, asked, cancelled, screen, over } = sit();
  await type("hi" + enter, "thrown away", ctrlC);
  assert.deepEqual(cancelled, ["hi"]);
  await type("half a line", ctrlC, "two" + enter);
  assert.deepEqual(asked, ["hi", "two"]);
  await type(ctrlC);
  assert.ok(!screen().includes("press Ctrl-C again"));
  await type(ctrlC, "x", "\x7f", ctrlC);
  assert.equal(screen().split("press Ctrl-C again or /exit to leave").length, 3, "another key starts over");
  await type(ctrlC);
  await within(over);
});

test("pasted lines are one message, sent by Enter where the terminal marks pastes, and by themselves elsewhere", async () => {
  const { type, answer, asked, over } = sit();
  await type("\x1b[200~one\rtwo\rthr\x1b[201~");
  assert.deepEqual(asked, []);
  await type("ee" + enter);
  await answer();
  await type("four\rfive\r");
  await answer();
  await type("six\\" + enter, "seven" + enter);
  await answer();
  assert.deepEqual(asked, ["one\ntwo\nthree", "four\nfive", "six\nseven"]);
  await type(ctrlD);
  await within(over);
});

test("answers break between words at the terminal's width", async () => {
  const { type, answer, screen, over } = sit(12);
  await type("hi" + enter);
  await answer("one two three four");
  assert.ok(screen().includes("so: one two\nthree four\n"), JSON.stringify(screen()));
  await type(ctrlD);
  await within(over);
});

test("over pipes each line is a message, but for those that end with a backslash", async () => {
  const stdin = new PassThrough();
  const terminal = openTerminal(stdin, new PassThrough(), new PassThrough());
  stdin.end("one\ntwo\\\nthree\nfour\\");
  const messages: string[] = [];
  for await (const message of terminal.messages) messages.push(message);
  assert.deepEqual(messages, ["one", "two\nthree", "four"]);
});

test("a message that was dropped is not sent by the end", async () => {
  const lines = new MessageLines(5);
  assert.equal(lines.push("one\\"), true);
  lines.drop();
  assert.equal(lines.open, false);
  lines.push("two");
  lines.end();
  const messages: string[] = [];
  for await (const message of lines.messages) messages.push(message);
  assert.deepEqual(messages, ["two"]);
});

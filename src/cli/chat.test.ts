import assert from "node:assert/strict";
import { test } from "node:test";
import { BadRequest } from "../core/errors.ts";
import { converse, type Ask } from "./chat.ts";

/** An LLM whose answers name the turns it was given, and that takes at most `most` of them. */
function echo(most = Infinity) {
  const asked: string[] = [];
  const ask: Ask = (messages) => {
    const turns = messages.map(({ role, content }) => `${role[0]}:${content}`).join(" ");
    asked.push(turns);
    const text = `<${messages.length}>`;
    const result = { text, tokenIds: [1], finishReason: "stop", usage: { promptTokens: 1, completionTokens: 1, totalTokens: 2 }, promptTokenIds: [] };
    return {
      async *[Symbol.asyncIterator]() {
        if (messages.length > most) throw new BadRequest("messages", "messages has too many tokens");
        yield { text, tokens: [1] };
      },
      then: (resolve: (value: unknown) => unknown) => Promise.resolve(result).then(resolve),
      cancel() {},
    } as unknown as ReturnType<Ask>;
  };
  return { ask, asked };
}

async function hold(ask: Ask, lines: readonly string[], system?: string) {
  let written = "";
  const notes: string[] = [];
  async function* input() {
    yield* lines;
  }
  await converse(ask, {
    messages: input(), interactive: false, write: (text) => (written += text), note: (text) => notes.push(text), prompt() {}, onInterrupt() {},
  }, system);
  return { written, notes };
}

test("each line is answered with all turns before it, until /exit", async () => {
  const { ask, asked } = echo();
  const { written } = await hold(ask, ["one", "", "  two ", "/exit", "three"], "be brief");
  assert.deepEqual(asked, ["s:be brief u:one", "s:be brief u:one a:<2> u:two"]);
  assert.equal(written, "<2>\n<4>\n");
});

test("/reset forgets the turns but not the system's, and unknown commands are no messages", async () => {
  const { ask, asked } = echo();
  const { notes } = await hold(ask, ["one", "/reset", "/what", "/help", "/etc/hosts says\nwhat?"], "sys");
  assert.deepEqual(asked, ["s:sys u:one", "s:sys u:/etc/hosts says\nwhat?"]);
  assert.ok(notes.some((note) => note.includes("no command /what")));
  assert.ok(notes.some((note) => note.includes("/reset")));
});

test("a conversation that outgrows the context loses its oldest exchanges and goes on", async () => {
  const { ask, asked } = echo(3);
  const { written } = await hold(ask, ["one", "two", "three"]);
  assert.equal(written, "<1>\n<3>\n<3>\n");
  assert.equal(asked.at(-1), "u:two a:<3> u:three");
});

test("a message that is too long by itself is refused and forgotten", async () => {
  const { ask, asked } = echo(0);
  const { notes } = await hold(ask, ["one", "two"]);
  assert.deepEqual(asked, ["u:one", "u:two"]);
  assert.equal(notes.length, 2);
});

test("an answer that fails gets a line end, so that the error has a line of its own", async () => {
  const failing = { async *[Symbol.asyncIterator]() { yield { text: "half", tokens: [1] }; throw new Error("the engine died"); }, cancel() {}, then() {} };
  let written = "";
  await assert.rejects(converse((() => failing) as unknown as Ask, {
    messages: (async function* () { yield "hi"; })(), interactive: false, write: (text) => (written += text), note() {}, prompt() {}, onInterrupt() {},
  }), /the engine died/);
  assert.equal(written, "half\n");
});
